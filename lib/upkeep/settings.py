"""Every table and key of upkeep.toml: its type, its default and what it means.

A key is a dataclass field with a reader, which turns the TOML value into the field's value or
raises ValueError with a text that begins with "expected". This module is the one home of keys and
defaults: the loader in `config`, the documentation and its test all read these tables.
"""

import signal
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from upkeep import units

Reader = Callable[[Any], Any]


def key(reader: Reader, doc: str, default: Any = MISSING, *, default_factory: Any = MISSING) -> Any:
    """A dataclass field that stands for one key of a table."""
    metadata = {"reader": reader, "doc": doc}
    if default_factory is not MISSING:
        return field(default_factory=default_factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def _of_type(kind: type, expected: str) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"expected {expected}, got {value!r}")
        return value

    return read


text = _of_type(str, "a string")
flag = _of_type(bool, "true or false")
_mapping = _of_type(dict, 'a table such as { NAME = "value" }')
_list = _of_type(list, "a list of strings")


def integer(least: int, most: int) -> Reader:
    """A reader of whole numbers from `least` to `most`."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}, got {value!r}")
        return value

    return read


def number(value: Any) -> float:
    """A number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"expected a number of at least 0, got {value!r}")
    return float(value)


def size(value: Any) -> int:
    """Bytes: "300M", or a bare number."""
    return units.parse_size(_text_or_number(value))


def duration(value: Any) -> float:
    """Seconds: "30s", or a bare number."""
    return units.parse_duration(_text_or_number(value))


def percent(value: Any) -> float:
    """A fraction, from "80%"."""
    return units.parse_percent(text(value))


def _text_or_number(value: Any) -> str:
    return str(value) if isinstance(value, (int, float)) and value is not True else text(value)


def words(value: Any) -> tuple[str, ...]:
    """A list of strings that are not empty."""
    for each in _list(value):
        if not text(each):
            raise ValueError('expected a list of strings, got an empty one ("")')
    return tuple(value)


def some_words(value: Any) -> tuple[str, ...]:
    """A list of at least one string."""
    if not words(value):
        raise ValueError("expected a list of at least one string")
    return tuple(value)


def roots(value: Any) -> tuple[str, ...]:
    """Absolute directories that are written out: no variable or ~ is left in them."""
    for each in some_words(value):
        if not each.startswith("/") or "$" in each or "\0" in each:
            raise ValueError(f'expected absolute paths without variables, got "{each}"')
    return tuple(value)


def choice(*known: str) -> Reader:
    """A reader of one of the `known` words."""

    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(f"expected one of {', '.join(known)}, got {value!r}")
        return str(value)

    return read


def size_or_none(value: Any) -> int | None:
    """Bytes; "" is none."""
    return None if value == "" else size(value)


def free_space(value: Any) -> int | float | None:
    """Free space of a disk: a fraction (float) from "10%", or bytes (int); "" is none."""
    return percent(value) if isinstance(value, str) and "%" in value else size_or_none(value)


class Command(tuple[str, ...]):
    """The words of a command, and its text as it was written or as a shell would want it."""

    text: str


def command(value: Any) -> Command:
    """A command: a list, or one string that is split like a shell would."""
    given = value
    if isinstance(value, str):
        import shlex

        try:
            value = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"expected a command, got {value!r}: {error}") from None
    parts = tuple(text(each) for each in _list(value))
    if not parts or not parts[0] or any("\0" in part for part in parts):
        raise ValueError("expected a command of at least one word, without NUL")
    made = Command(parts)
    made.text = given if isinstance(given, str) else " ".join(parts)
    return made


def absolute(value: Any) -> Path:
    """An absolute path."""
    if not text(value).startswith("/") or "\0" in value:
        raise ValueError(f'expected an absolute path, got "{value}"')
    return Path(value)


def absolute_or_none(value: Any) -> Path | None:
    """An absolute path; "" is none."""
    return absolute(value) if text(value) else None


def absolutes(value: Any) -> tuple[Path, ...]:
    """A list of absolute paths."""
    return tuple(absolute(each) for each in words(value))


def path(value: Any) -> Path | None:
    """A path; "" is none. What a relative one is relative to, the key's text says."""
    if "\0" in text(value):
        raise ValueError("expected a path without NUL")
    return Path(value) if value else None


def stop_signal(value: Any) -> int:
    """The number of a signal given by name, "TERM" or "SIGTERM"."""
    name = "SIG" + text(value).upper().removeprefix("SIG")
    if name not in signal.Signals.__members__ or name in ("SIGKILL", "SIGSTOP"):
        raise ValueError(f'expected the name of a signal such as "TERM" or "INT", got "{value}"')
    return int(signal.Signals[name])


def umask(value: Any) -> int:
    """A file mode mask in octal digits, such as "027"."""
    digits = text(value)
    if not 1 <= len(digits) <= 4 or set(digits) - set("01234567") or int(digits, 8) > 0o777:
        raise ValueError(f'expected a umask of octal digits such as "027", got "{value}"')
    return int(digits, 8)


def environment(value: Any) -> dict[str, str]:
    """Names and values of environment variables."""
    for name, content in _mapping(value).items():
        plain = name.isascii() and name.isidentifier()  # what a shell passes on
        if not plain or "\0" in text(content):
            raise ValueError(f'expected NAME = "value" without NUL, got {name!r}')
    return dict(value)


def limits(value: Any) -> dict[str, int]:
    """Resource limits by setrlimit(2)'s names; whole numbers, or sizes such as "300M"."""
    import resource

    known = [each[7:].lower() for each in dir(resource) if each.startswith("RLIMIT_")]
    for name in _mapping(value):
        if name not in known:
            raise ValueError(f'expected limits among {", ".join(known)}, got "{name}"')
    return {name: size(content) for name, content in value.items()}


@dataclass(frozen=True)
class Ready:
    """What proves that a started program works; all that is given must hold within `timeout`."""

    tcp: tuple[str, int] | None = None
    log: str = ""
    file: Path | None = None
    command: tuple[str, ...] = ()
    timeout: float = 30.0


def address(value: Any) -> tuple[str, int]:
    """An IP address and a port, such as "127.0.0.1:5000" or "[::1]:5000"."""
    import socket

    host, _, port = text(value).rpartition(":")
    host = host.strip("[]")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        return host, integer(1, 65535)(int(port))
    except (OSError, ValueError):
        raise ValueError(f'expected an address such as "127.0.0.1:80", got "{value}"') from None


def pattern(value: Any) -> str:
    """A regular expression."""
    import re

    try:
        re.compile(text(value))
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {value!r}: {error}") from None
    return str(value)


def ready(value: Any) -> Ready:
    """How to tell that a program is ready, e.g. { tcp = "127.0.0.1:5000", timeout = "30s" }."""
    readers: dict[str, Reader] = {
        "tcp": address,
        "log": pattern,
        "file": absolute,
        "command": command,
        "timeout": duration,
    }
    for name in _mapping(value):
        if name not in readers:
            raise ValueError(f'expected {", ".join(readers)}, got "{name}"')
    return Ready(**{name: readers[name](content) for name, content in value.items()})


@dataclass(frozen=True)
class PathSettings:
    """[paths]"""

    state: Path | None = key(
        path,
        "The state directory, relative to this file. Default: var beside upkeep.toml,"
        " /var/lib/upkeep for /etc/upkeep, ~/.local/state/upkeep where neither can be written.",
        None,
    )
    prometheus: Path | None = key(
        absolute_or_none,
        "The directory of node_exporter's textfile collector; none by default.",
        None,
    )


@dataclass(frozen=True)
class TelegramSettings:
    """[telegram]"""

    connect_timeout: float = key(duration, "Longest wait for a TCP connection.", 5.0)
    timeout: float = key(duration, "Longest wait for the TLS handshake and the answer.", 20.0)
    tries: int = key(integer(1, 10), "Tries of one message in one run.", 3)
    budget: float = key(duration, "Longest time one run may spend on sending.", 45.0)
    repeat_after: float = key(
        duration, "How long a repeat of telegram_alert.py --key is suppressed.", 900.0
    )
    remind_after: float = key(
        duration, "After how long a problem that lasts is told again.", 6 * 3600.0
    )
    expire_after: float = key(
        duration, "Age at which a message that could not be sent is given up.", 86400.0
    )


@dataclass(frozen=True)
class JobSettings:
    """[jobs]"""

    log_max: int = key(size, "Size of one job's log; the oldest output goes first.", 64 << 20)


@dataclass(frozen=True)
class HostSettings:
    """[host]"""

    memory_alert: float = key(percent, "Share of memory in use that is a problem.", 0.80)
    memory_clear: float = key(percent, "Share from which on down it is none any more.", 0.75)
    samples: int = key(integer(1, 1000), "Samples in a row that open or close an alert.", 3)
    quiet_load: float = key(number, "Load per core below which the host is quiet.", 0.5)
    disks: tuple[Path, ...] = key(absolutes, "Mount points that are watched.", (Path("/"),))
    disk_alert: float = key(percent, "Share of a disk in use that is a problem.", 0.90)
    data_dirs: tuple[Path, ...] = key(absolutes, "Directories whose size is reported.", ())
    top: int = key(integer(1, 1000), "Rows of programs in the report.", 10)
    program_attention: int = key(size, "Memory of a program that the report points out.", 200 << 20)
    restarts_attention: int = key(
        integer(1, 1_000_000), "Restarts in 24 hours that the report points out.", 50
    )


@dataclass(frozen=True)
class TaskSettings:
    """[task.NAME]"""

    name: str
    command: Command = key(
        command, "The program: a list of words, or a string that is split like a shell would."
    )
    shell: bool = key(flag, "Run the command, given as one string, by /bin/sh.", False)
    cwd: Path = key(absolute, "Its working directory.", Path("/"))
    env: dict[str, str] = key(environment, "Environment variables.", default_factory=dict)
    env_file: Path | None = key(absolute, "A file of NAME=value lines, read before env.", None)
    user: str = key(text, "The user it runs as; only root can name another.", "")
    group: str = key(text, "Its group; the user's own by default.", "")
    umask: int = key(umask, "Its file mode mask.", 0o022)
    nice: int = key(integer(-20, 19), "Its priority; only root can go below 0.", 0)
    limits: dict[str, int] = key(limits, "Resource limits, such as nofile.", default_factory=dict)
    log: Path = key(path, "stdout and stderr, appended; <state>/log/<task>.log by default.", None)
    pid_file: Path = key(path, "Its PID file; <state>/run/<task>.pid by default.", None)
    stop_signal: int = key(stop_signal, "The signal that asks it to end.", int(signal.SIGTERM))
    stop_timeout: float = key(duration, "Grace period before it is killed.", 30.0)
    state_files: tuple[str, ...] = key(
        words, "Patterns of files that are removed while it is stopped.", ()
    )
    state_files_older_than: float = key(duration, "Only those at least this old.", 3600.0)
    verify: float = key(duration, "How long it must live to count as started.", 3.0)
    ready: Ready | None = key(ready, "What must hold before it counts as started.", None)
    max_rss: int | None = key(size, "Memory of all its processes from which it restarts.", None)
    max_rss_samples: int = key(
        integer(1, 1000), "Samples in a row over max_rss or max_fds that make it restart.", 3
    )
    max_fds: int | None = key(
        integer(1, 1 << 30),
        "Open descriptors of one of its processes from which it restarts.",
        None,
    )
    max_age: float | None = key(duration, "Age from which it restarts.", None)
    heartbeat: Path | None = key(absolute, "A file that it touches while it works.", None)
    heartbeat_max_age: float = key(duration, "Age of that file from which it restarts.", 600.0)
    quiet_load: float | None = key(
        number, "Load per core below which the host is quiet; [host] quiet_load by default.", None
    )
    deadline: float = key(
        duration, "How long a restart waits for a quiet host (see --when-quiet).", 7200.0
    )
    depends: tuple[str, ...] = key(words, "Tasks that are started before it.", ())
    crash_limit: int = key(integer(1, 1000), "Deaths within crash_window that open the breaker.", 5)
    crash_window: float = key(duration, "See crash_limit.", 600.0)
    crash_cooldown: float = key(duration, "Pause before a given-up task is tried again.", 1800.0)


@dataclass(frozen=True)
class CleanupSettings:
    """[cleanup.NAME]"""

    name: str
    paths: tuple[str, ...] = key(roots, "The directories that are cleaned (roots).")
    match: tuple[str, ...] = key(
        some_words, "Globs of files that may go; with a / they match the path below the root."
    )
    exclude: tuple[str, ...] = key(words, "Globs of files that stay.", ())
    older_than: float | None = key(duration, "Age from which a file goes.", None)
    age: str = key(
        choice("mtime", "name", "records"),
        'What an age is taken from: "mtime", "name" (a date in the file name) or "records"'
        " (the newest time inside).",
        "mtime",
    )
    action: str = key(
        choice("delete", "compress", "truncate", "prune"),
        'What is done: "delete", "compress" (to NAME.gz), "truncate" (drop all lines) or "prune"'
        " (drop the records that are older).",
        "delete",
    )
    timestamp_field: str = key(text, "The key of the time in a record.", "timestamp")
    larger_than: int | None = key(size_or_none, "Only files larger than that.", None)
    keep_newest: int = key(
        integer(0, 1_000_000), "Files kept of each group (a directory, a name without its date).", 0
    )
    max_total: int | None = key(
        size_or_none, "Most bytes that all matched files may take; the oldest go first.", None
    )
    min_free: int | float | None = key(
        free_space, 'Least free space, "10%" or "5G"; the oldest matched files go first.', None
    )
    min_age: float = key(duration, "max_total and min_free spare younger files.", 86400.0)
    allow_all: bool = key(flag, 'Must be true for match = ["*"].', False)
    remove_empty_dirs: bool = key(flag, "Remove directories that the run emptied.", False)

    def __post_init__(self) -> None:
        """Refuse a rule that is too wide to be meant. Raises ValueError."""
        limits = (self.older_than, self.larger_than, self.max_total, self.min_free)
        if all(limit is None for limit in limits):
            raise ValueError("expected a limit: older_than, larger_than, max_total or min_free")
        if self.action == "prune" and self.older_than is None:
            raise ValueError('expected older_than beside action = "prune"')
        if self.action != "delete" and (self.max_total, self.min_free) != (None, None):
            raise ValueError('expected action = "delete" beside max_total and min_free')
        wide = [glob for glob in self.match if not set(glob) - set("*?/")]
        if wide and not self.allow_all:
            raise ValueError(f'expected allow_all = true beside match = ["{wide[0]}"]')
