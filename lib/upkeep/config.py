"""upkeep.toml: where it is found, how it is checked, and what it says.

The tables themselves stand in `settings`.
"""

import os
import stat
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import Any, TypeVar

from upkeep import CHECKOUT, OWN_PACKAGES
from upkeep.errors import Exit, OperatorError
from upkeep.files import writable_by_others
from upkeep.settings import (
    CleanupSettings,
    HostSettings,
    JobSettings,
    PathSettings,
    TaskSettings,
    TelegramSettings,
    read_table,
    table,
    unknown_key,
)

SYSTEM_FILE = Path("/etc/upkeep/upkeep.toml")
SYSTEM_STATE = Path("/var/lib/upkeep")
_LONGEST_NAME = 100

Table = TypeVar("Table")


@table
class Config:
    """What upkeep.toml says, with every path absolute. `file` is None when there is no file."""

    file: Path | None
    state: Path
    prometheus: Path | None = None
    telegram: TelegramSettings = field(default_factory=TelegramSettings)
    jobs: JobSettings = field(default_factory=JobSettings)
    host: HostSettings = field(default_factory=HostSettings)
    tasks: dict[str, TaskSettings] = field(default_factory=dict)
    cleanups: dict[str, CleanupSettings] = field(default_factory=dict)

    @property
    def env_file(self) -> Path:
        """The `.env` that holds the secrets: beside upkeep.toml."""
        return (self.file.parent if self.file else CHECKOUT) / ".env"


def find(option: str | None) -> Path | None:
    """The configuration file: `option`, $UPKEEP_CONFIG, the checkout's, /etc/upkeep's, or none.

    Raises OperatorError when the one that was named is not there.
    """
    named = option or os.environ.get("UPKEEP_CONFIG")
    if named:
        if not os.path.isfile(named):
            raise OperatorError(f"{named}: no such configuration file", Exit.USAGE)
        return Path(named).absolute()
    candidates = (CHECKOUT / "upkeep.toml", SYSTEM_FILE)
    return next((path for path in candidates if os.path.isfile(path)), None)


def load(option: str | None = None) -> Config:
    """Find, read and check the configuration. Raises OperatorError."""
    file = find(option)
    if file is None:
        config = Config(file=None, state=default_state(None))
    else:
        config = parse(_read(file), file)
    refuse_untrusted(config)
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read: {error.strerror}", Exit.USAGE) from None
    except (ValueError, RecursionError) as error:  # also for a number of thousands of digits
        raise OperatorError(f"{file}: not valid TOML: {error}", Exit.USAGE) from None


def parse(document: dict[str, Any], file: Path) -> Config:
    """Check `document`, read from `file`. Raises OperatorError at the first fault."""
    known = ("paths", "telegram", "jobs", "host", "task", "cleanup")
    for name, content in document.items():
        if name not in known:
            raise _fault(file, f"[{name}]: {unknown_key(name, known)}")
        if not isinstance(content, dict):
            raise _fault(file, f"[{name}]: expected a table, got {content!r}")
    paths = _table(PathSettings, document.get("paths", {}), file, "paths")
    state = file.parent / paths.state if paths.state else default_state(file)
    tasks = _named_tables(TaskSettings, document.get("task", {}), file, "task")
    for name, task in tasks.items():
        for other in set(task.depends) - tasks.keys():
            raise _fault(file, f'[task.{name}] depends: no task "{other}"')
    return Config(
        file=file,
        state=state,
        prometheus=paths.prometheus,
        telegram=_table(TelegramSettings, document.get("telegram", {}), file, "telegram"),
        jobs=_table(JobSettings, document.get("jobs", {}), file, "jobs"),
        host=_table(HostSettings, document.get("host", {}), file, "host"),
        tasks={name: _located(task, state) for name, task in tasks.items()},
        cleanups=_named_tables(CleanupSettings, document.get("cleanup", {}), file, "cleanup"),
    )


def default_state(file: Path | None) -> Path:
    """Where the state lies when upkeep.toml does not say.

    Who owns a place decides, never whether it can be written right now: with another state
    directory on a full or read-only disk, every task would be started a second time.
    """
    if file:
        return SYSTEM_STATE if file.parent == SYSTEM_FILE.parent else file.parent / "var"
    is_checkout = (CHECKOUT / "upkeep.example.toml").exists()  # else: installed by pip
    if is_checkout and CHECKOUT.stat().st_uid == os.geteuid():
        return CHECKOUT / "var"
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "upkeep"


def refuse_untrusted(config: Config) -> None:
    """As root, run nothing that another user can write. Raises OperatorError (exit 3)."""
    if os.geteuid() != 0:
        return
    code = (CHECKOUT / "bin", CHECKOUT / "lib" / "upkeep")
    for path in (config.file, config.state, *code, OWN_PACKAGES, *_doubtful(code)):
        why = writable_by_others(path) if path else None
        if why:
            raise OperatorError(
                f"{path}: not trusted by root: {why};"
                f" mend it by: chown root: {path} && chmod go-w {path} (and so above it)",
                Exit.REFUSED,
            )


def _doubtful(folders: Iterable[Path]) -> Iterator[Path]:
    """The entries of `folders` whose own mode or owner calls for a closer look."""
    for folder in filter(Path.is_dir, folders):
        for entry in os.scandir(folder):
            info = entry.stat(follow_symlinks=False)  # all may do all to a link, so it is doubted
            if info.st_uid or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                yield Path(entry.path)


def _named_tables(
    kind: type[Table], tables: dict[str, Any], file: Path, head: str
) -> dict[str, Table]:
    found = {}
    for name, content in tables.items():
        where = f"{head}.{name}"
        if not isinstance(content, dict):
            raise _fault(file, f"[{head}] {name}: expected a table [{where}], got {content!r}")
        reason = invalid_name(name)
        if reason:
            raise _fault(file, f"[{where}]: {reason}")
        found[name] = _table(kind, content, file, where, name=name)
    return found


def invalid_name(name: str) -> str | None:
    """Why `name` can't name a task or a rule (it becomes a file name); None when it can."""
    plain = name.replace(".", "").replace("_", "").replace("-", "")
    if not plain.isalnum() or name[0] in ".-" or len(name.encode()) > _LONGEST_NAME:
        return "expected a name of letters, digits, '.', '_' and '-', not beginning with '.' or '-'"
    if name == "upkeep" or name.startswith("job-"):
        return f'expected another name: "{name}" is kept for upkeep\'s own logs'
    return None


def _table(
    kind: type[Table], content: dict[str, Any], file: Path, where: str, **given: Any
) -> Table:
    try:
        return read_table(kind, content, **given)
    except ValueError as error:
        raise _fault(file, f"[{where}] {error}") from None


def _located(task: TaskSettings, state: Path) -> TaskSettings:
    """`task` with the paths of its log and PID file made absolute, below the state directory."""
    return replace(
        task,
        log=state / (task.log or f"log/{task.name}.log"),
        pid_file=state / (task.pid_file or f"run/{task.name}.pid"),
    )


def _fault(file: Path, reason: str) -> OperatorError:
    return OperatorError(f"{file}: {reason}", Exit.USAGE)
