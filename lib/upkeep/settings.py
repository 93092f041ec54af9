"""Every table and key of upkeep.toml with its type and its default.

A key is a dataclass field whose annotation holds its reader (see `readers`). What a key means is
explained in upkeep.example.toml; a test compares the two. A text behind the reader is the help of
the command line option that is made from the key.
"""

import functools
import signal
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, dataclass_transform

from upkeep import readers
from upkeep.readers import Reader

Table = TypeVar("Table")


class Key(NamedTuple):
    """One key of a table: how it is read, what its option's help says, whether it must be given."""

    reader: Reader
    help: str
    required: bool


@functools.cache
def keys(kind: type) -> dict[str, Key]:
    """The keys of a table, in their order."""
    found = {}
    for each in fields(kind):
        extras = getattr(each.type, "__metadata__", None)
        if extras:
            required = each.default is MISSING and each.default_factory is MISSING
            found[each.name] = Key(extras[0], "".join(extras[1:]), required)
    return found


def read_table(kind: type[Table], content: dict[str, Any], **given: Any) -> Table:
    """Make a `table` of what upkeep.toml has for it. Raises ValueError: which key, and why."""
    known = keys(kind)  # type: ignore[arg-type] # a class is hashable
    for name, value in content.items():
        if name not in known:
            raise unknown_key(name, known)
        try:
            given[name] = known[name].reader(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    for name, each in known.items():
        if each.required and name not in given:
            raise ValueError(f'the key "{name}" is missing')
    return kind(**given)


def unknown_key(name: str, known: Iterable[str]) -> ValueError:
    """What to say of a key that does not exist."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
    return ValueError(f'unknown key "{name}"; {hint}')


@dataclass_transform(frozen_default=True)
def table(kind: type[Table]) -> type[Table]:
    """A frozen dataclass without the `==` and the repr that nothing asks a table for: they took a
    quarter of the time that every script needs to make the tables."""
    return dataclass(frozen=True, eq=False, repr=False)(kind)


@table
class Ready:
    """What proves that a started program works; all that is given must hold within `timeout`."""

    tcp: Annotated[tuple[str, int] | None, readers.address] = None
    log: Annotated[str, readers.pattern] = ""
    file: Annotated[Path | None, readers.absolute] = None
    command: Annotated[tuple[str, ...], readers.command_words] = ()
    timeout: Annotated[float, readers.duration] = 30.0


def readiness(value: Any) -> Ready:
    """How to tell that a program is ready, e.g. { tcp = "127.0.0.1:5000", timeout = "30s" }."""
    return read_table(Ready, readers.mapping(value))


@table
class PathSettings:
    """[paths]"""

    state: Annotated[Path | None, readers.or_none(readers.path)] = None
    prometheus: Annotated[Path | None, readers.or_none(readers.absolute)] = None


@table
class TelegramSettings:
    """[telegram]"""

    connect_timeout: Annotated[float, readers.above_zero(readers.duration)] = 5.0
    timeout: Annotated[float, readers.above_zero(readers.duration)] = 20.0
    tries: Annotated[int, readers.integer(1, 10)] = 3
    budget: Annotated[float, readers.above_zero(readers.duration)] = 45.0
    repeat_after: Annotated[float, readers.duration] = 900.0
    remind_after: Annotated[float, readers.duration] = 6 * 3600.0
    expire_after: Annotated[float, readers.duration] = 86400.0


@table
class JobSettings:
    """[jobs]"""

    log_max: Annotated[int, readers.size] = 64 << 20


@table
class HostSettings:
    """[host]"""

    memory_alert: Annotated[float, readers.percent] = 0.80
    memory_clear: Annotated[float, readers.percent] = 0.75
    samples: Annotated[int, readers.integer(1)] = 3
    quiet_load: Annotated[float, readers.number] = 0.5
    disks: Annotated[tuple[Path, ...], readers.absolutes] = (Path("/"),)
    disk_alert: Annotated[float, readers.percent] = 0.90
    data_dirs: Annotated[tuple[Path, ...], readers.absolutes] = ()
    top: Annotated[int, readers.integer(1)] = 10
    program_attention: Annotated[int, readers.size] = 200 << 20
    restarts_attention: Annotated[int, readers.integer(1)] = 50


@table
class TaskSettings:
    """[task.NAME]"""

    name: str
    command: Annotated[readers.Command, readers.command_words] = readers.Command()
    shell: Annotated[bool, readers.flag] = False
    cwd: Annotated[Path, readers.absolute] = Path("/")
    env: Annotated[dict[str, str], readers.environment] = field(default_factory=dict)
    env_file: Annotated[Path | None, readers.absolute] = None
    user: Annotated[str, readers.text] = ""
    group: Annotated[str, readers.text] = ""
    umask: Annotated[int, readers.file_mask] = 0o022
    nice: Annotated[int, readers.integer(-20, 19)] = 0
    limits: Annotated[dict[str, int], readers.resource_limits] = field(default_factory=dict)
    # config fills in the usual ones where these are None
    log: Annotated[Path, readers.or_none(readers.path)] = None  # type: ignore[assignment]
    pid_file: Annotated[Path, readers.or_none(readers.path)] = None  # type: ignore[assignment]
    stop_signal: Annotated[int, readers.signal_name] = int(signal.SIGTERM)
    stop_timeout: Annotated[float, readers.duration] = 30.0
    state_files: Annotated[tuple[str, ...], readers.absolute_globs] = ()
    state_files_older_than: Annotated[float, readers.duration] = 3600.0
    verify: Annotated[float, readers.duration] = 3.0
    ready: Annotated[Ready | None, readiness] = None
    max_rss: Annotated[int | None, readers.above_zero(readers.size)] = None
    max_rss_samples: Annotated[int, readers.integer(1)] = 3
    max_fds: Annotated[int | None, readers.integer(1)] = None
    max_age: Annotated[float | None, readers.above_zero(readers.duration)] = None
    heartbeat: Annotated[Path | None, readers.absolute] = None
    heartbeat_max_age: Annotated[float, readers.above_zero(readers.duration)] = 600.0
    quiet_load: Annotated[float | None, readers.number] = None
    deadline: Annotated[float, readers.duration] = 7200.0
    restart_before_limit: Annotated[float | None, readers.duration] = None
    depends: Annotated[tuple[str, ...], readers.words] = ()
    crash_limit: Annotated[int, readers.integer(1)] = 5
    crash_window: Annotated[float, readers.above_zero(readers.duration)] = 600.0
    crash_cooldown: Annotated[float, readers.duration] = 1800.0
    manager: Annotated[str, readers.choice("upkeep", "systemd", "pm2")] = "upkeep"
    unit: Annotated[str, readers.text] = ""
    app: Annotated[str, readers.text] = ""
    scope: Annotated[bool, readers.flag] = False

    def __post_init__(self) -> None:
        needed = {"upkeep": "command", "systemd": "unit", "pm2": "app"}[self.manager]
        if not getattr(self, needed):
            raise ValueError(f'the key "{needed}" is missing')


@table
class CleanupSettings:
    """[cleanup.NAME]"""

    name: str
    paths: Annotated[tuple[str, ...], readers.roots]
    match: Annotated[tuple[str, ...], readers.some_words, "Globs of files that may go."]
    exclude: Annotated[tuple[str, ...], readers.words, "Globs of files that stay."] = ()
    older_than: Annotated[float | None, readers.duration, "Age from which a file goes."] = None
    age: Annotated[str, readers.choice("mtime", "name", "records"), "mtime, name or records."] = (
        "mtime"
    )
    action: Annotated[
        str,
        readers.choice("delete", "compress", "truncate", "prune"),
        "delete, compress, truncate or prune (drop old records).",
    ] = "delete"
    timestamp_field: Annotated[str, readers.text, "Key of a record's time."] = "timestamp"
    larger_than: Annotated[int | None, readers.optional_size, "Only files larger than that."] = None
    keep_newest: Annotated[int, readers.integer(0), "Files kept of each group."] = 0
    max_total: Annotated[int | None, readers.optional_size, "Most bytes of all matches."] = None
    min_free: Annotated[int | float | None, readers.optional_space, "Least free space."] = None
    min_age: Annotated[float, readers.duration, "max_total, min_free spare younger ones."] = 86400.0
    allow_all: Annotated[bool, readers.flag] = False
    remove_empty_dirs: Annotated[bool, readers.flag] = False

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
