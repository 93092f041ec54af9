"""What every script does alike: options, exit status, error lines, the log."""

import argparse
import atexit
import contextlib
import errno
import functools
import gc
import importlib.util
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upkeep import CHECKOUT, __version__, files, text, units
from upkeep.errors import Exit, OperatorError

if TYPE_CHECKING:  # half of a script's start: not every one needs it
    from upkeep import config

Main = Callable[..., int]  # takes the arguments, or by default those of the command line

PACKAGES = {  # module: (Debian package, name on PyPI)
    "psutil": ("python3-psutil", "psutil"),
    "requests": ("python3-requests", "requests"),
    "dotenv": ("python3-dotenv", "python-dotenv"),
}


_OPERATORS_ERRNOS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def script(main: Main) -> Main:
    """Wrap a script's `main`: errors become one line and an exit status, alike everywhere.

    An OperatorError, missing rights and a full disk are told without a traceback; a bug of ours
    keeps its full one, without secrets. SIGTERM ends the script like Ctrl-C does, through its
    `finally` blocks, with 143.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        _prepare_streams()
        sys.excepthook = _print_redacted
        atexit.register(gc.freeze)  # else the interpreter ends by looking for cycles in it all
        with contextlib.suppress(ValueError):  # not in the main thread: the caller's business
            signal.signal(signal.SIGTERM, _terminate)
        try:
            status = int(main(argv))
            print(end="", flush=True)  # stdout is None when it was closed
        except (OperatorError, OSError, UnicodeEncodeError, KeyboardInterrupt) as error:
            status = _told(error)
        for path in files.set_aside:
            warn(f"{path}: a damaged state file was set aside and is rebuilt")
        files.set_aside.clear()
        _drop_unwritable()
        return status

    return run


def _told(error: BaseException) -> int:
    """Say in one line what an operator can mend; the exit status. Raises what is a bug of ours."""
    if isinstance(error, OperatorError):
        warn(str(error))
        return error.code
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader went away, as `| head` does
        return Exit.DONE
    if isinstance(error, UnicodeEncodeError) and sys.getfilesystemencoding() != "utf-8":
        warn(f"{error.object}: no file name in this locale; set PYTHONUTF8=1 and try again")
        return Exit.USAGE
    if isinstance(error, OSError) and error.errno in _OPERATORS_ERRNOS:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if place := error.filename or (full and "the output"):
            warn(f"{place}: {error.strerror}")
            return Exit.PROBLEM
    raise error


def _drop_unwritable() -> None:
    """Empty the buffers; what is left in them at the end would turn the exit status into 120."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w"))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _print_redacted(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    import traceback

    sys.stderr.write(text.redact("".join(traceback.format_exception(kind, error, trace))))


def _terminate(_signal: int, _frame: types.FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(int(Exit.TERMINATED))


def program() -> str:
    """The name of the running script without its ending: "restart"."""
    return Path(sys.argv[0]).stem.removeprefix("upkeep-").replace("-", "_") or "upkeep"


def warn(message: str) -> None:
    """One line on stderr, headed by the script's name; secrets masked, controls escaped."""
    print_error(f"{program()}: {text.printable(message.replace(chr(10), ' '))}")


def print_error(message: str) -> None:
    """Print `message` on stderr, secrets masked. One that can't be written stops nothing."""
    with contextlib.suppress(OSError):
        print(text.redact(message), file=sys.stderr, flush=True)


def log(settings: "config.Config", message: str) -> None:
    """Append one event to <state>/log/upkeep.log. A log that can't be written stops nothing."""
    line = f"{units.local_time(time.time())} {program()} {text.printable(text.redact(message))}"
    try:
        files.append_line(settings.state / "log" / "upkeep.log", line)
    except OSError as error:
        warn(f"{error.filename or settings.state}: cannot write the log: {error.strerror}")


def parser(doc: str | None, examples: str) -> argparse.ArgumentParser:
    """A parser with the options that every script has.

    `doc` is the script's docstring; its first paragraph becomes the description. `examples` has
    one command a line, with the question that it answers behind a #.
    """
    made = argparse.ArgumentParser(
        description=(doc or "").split("\n\n")[0],
        epilog=f"examples:\n{examples}",
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=98),
        allow_abbrev=False,
    )
    made.add_argument("--config", metavar="FILE", help="upkeep.toml to use")
    made.add_argument("-v", "--verbose", action="store_true", help="say what is done")
    made.add_argument("--version", action="version", version=f"upkeep {__version__}")
    return made


def rehearsing() -> bool:
    """Whether the environment asks for a plan only, by UPKEEP_DRY_RUN=1."""
    return os.environ.get("UPKEEP_DRY_RUN", "0") not in ("", "0")


def add_dry_run(made: argparse.ArgumentParser) -> None:
    """Add --dry-run; UPKEEP_DRY_RUN=1 in the environment means the same."""
    made.add_argument(
        "--dry-run",
        action="store_true",
        default=rehearsing(),
        help="print the plan and change nothing",
    )


def add_json(made: argparse.ArgumentParser) -> None:
    """Add --json."""
    made.add_argument("--json", action="store_true", help="print one JSON document")


def option_type(parse: Callable[[str], Any], name: str) -> Callable[[str], Any]:
    """`parse` as an argparse type: its ValueError text becomes the usage error."""

    def read(value: str) -> Any:
        try:
            return parse(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    read.__name__ = name
    return read


def _count(value: str) -> int:
    if not value.isdecimal() or not 1 <= int(value) <= 1000:
        raise ValueError(f'expected a whole number from 1 to 1000, got "{value}"')
    return int(value)


count = option_type(_count, "count")
duration = option_type(units.parse_duration, "duration")
size = option_type(units.parse_size, "size")


def require(*modules: str) -> None:
    """Have the third-party `modules` at hand before anything is done. Raises OperatorError."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        apt = " ".join(PACKAGES[name][0] for name in missing)
        pip = " ".join(PACKAGES[name][1] for name in missing)
        raise OperatorError(
            f"missing: {', '.join(missing)}; install by: apt install {apt},"
            f" or: {CHECKOUT}/bin/setup, or: pip install {pip}",
            Exit.USAGE,
        )


def chosen_tasks(settings: "config.Config", names: Sequence[str]) -> list[str]:
    """`names` without repeats, checked against the configuration. Raises OperatorError."""
    for name in names:
        if name not in settings.tasks:
            known = ", ".join(settings.tasks) or "none is configured"
            where = settings.file or "upkeep.toml (there is none)"
            shown = text.printable(name)
            raise OperatorError(f'no task "{shown}" in {where}; known: {known}', Exit.USAGE)
    return list(dict.fromkeys(names))


def print_json(value: object) -> None:
    """Print `value` as one JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def colour(line: str, code: int) -> str:
    """`line` in an ANSI colour, on a terminal that wants one (see no-color.org)."""
    wanted = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return f"\x1b[{code}m{line}\x1b[0m" if wanted else line
