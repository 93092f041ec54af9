"""Every table and key of upkeep.toml with its type and its default.

A key is a dataclass field whose annotation holds a reader: a function that turns the TOML value
into the field's value, or raises ValueError with a text that begins with "expected". What a key
means is explained in upkeep.example.toml; a test compares the two. A text behind the reader is the
help of the command line option that is made from the key.
"""

import functools
import signal
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from upkeep import units

Reader = Callable[[Any], Any]
Table = TypeVar("Table")


class Key(NamedTuple):
    """One key of a table: how it is read, what its option's help says, whether it must be given."""

    reader: Reader
    help: str
    required: bool


@functools.cache
def keys(table: type) -> dict[str, Key]:
    """The keys of a table, in their order."""
    found = {}
    for each in fields(table):
        extras = getattr(each.type, "__metadata__", None)
        if extras:
            required = each.default is MISSING and each.default_factory is MISSING
            found[each.name] = Key(extras[0], "".join(extras[1:]), required)
    return found


def read_table(table: type[Table], content: dict[str, Any], **given: Any) -> Table:
    """Make a `table` of what upkeep.toml has for it. Raises ValueError: which key, and why."""
    known = keys(table)  # type: ignore[arg-type] # a class is hashable
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
    return table(**given)


def unknown_key(name: str, known: Iterable[str]) -> ValueError:
    """What to say of a key that does not exist."""
    import difflib

    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(known)}"
    return ValueError(f'unknown key "{name}"; {hint}')


def _of_type(kind: type, expected: str) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"expected {expected}, got {value!r}")
        return value

    return read


text = _of_type(str, "a string")
flag = _of_type(bool, "true or false")
mapping = _of_type(dict, 'a table such as { NAME = "value" }')
_list = _of_type(list, "a list of strings")


def integer(least: int, most: int = 1 << 30) -> Reader:
    """A reader of whole numbers from `least` to `most`."""

    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"expected a whole number from {least} to {most}, got {value!r}")
        return value

    return read


def choice(*known: str) -> Reader:
    """A reader of one of the `known` words."""

    def read(value: Any) -> str:
        if value not in known:
            raise ValueError(f"expected one of {', '.join(known)}, got {value!r}")
        return str(value)

    return read


def or_none(reader: Reader) -> Reader:
    """`reader`, with "" for none."""
    return lambda value: None if value == "" else reader(value)


def number(value: Any) -> float:
    """A number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"expected a number of at least 0, got {value!r}")
    return float(value)


def _of_units(parse: Callable[[str], Any]) -> Reader:
    """A reader of `parse`'s text, or of the same as a bare number."""
    bare = (int, float)
    return lambda value: parse(
        str(value) if isinstance(value, bare) and value is not True else text(value)
    )


size = _of_units(units.parse_size)  # bytes
duration = _of_units(units.parse_duration)  # seconds
percent = _of_units(units.parse_percent)  # a fraction


def above_zero(reader: Reader) -> Reader:
    """`reader` for a limit or a time that makes no sense as 0; what is off has no key."""

    def read(value: Any) -> Any:
        if not reader(value):
            raise ValueError(f"expected more than 0, got {value!r}; to turn it off, leave it out")
        return reader(value)

    return read


def free_space(value: Any) -> Any:
    """Free space of a disk: a fraction (float) from "10%", or bytes (int)."""
    return percent(value) if isinstance(value, str) and "%" in value else size(value)


def words(value: Any) -> tuple[str, ...]:
    """A list of strings that are not empty."""
    for each in _list(value):
        if not text(each) or "\0" in each:
            raise ValueError('expected a list of strings, got an empty one ("") or a NUL')
    return tuple(value)


def some_words(value: Any) -> tuple[str, ...]:
    """A list of at least one string."""
    if not words(value):
        raise ValueError("expected a list of at least one string")
    return tuple(value)


def roots(value: Any) -> tuple[str, ...]:
    """Absolute directories that are written out: no variable or ~ is left in them."""
    for each in some_words(value):
        if not each.startswith("/") or "$" in each:
            raise ValueError(f'expected absolute paths without variables, got "{each}"')
    return tuple(value)


class Command(tuple[str, ...]):
    """The words of a command, and its text as it was written."""

    text: str


def command_words(value: Any) -> Command:
    """A command: a list, or one string that is split like a shell would."""
    import shlex

    try:
        parts = shlex.split(value) if isinstance(value, str) else [text(x) for x in _list(value)]
    except ValueError as error:
        raise ValueError(f"expected a command, got {value!r}: {error}") from None
    if not parts or not parts[0] or any("\0" in part for part in parts):
        raise ValueError("expected a command of at least one word, without NUL")
    made = Command(parts)
    made.text = value if isinstance(value, str) else " ".join(parts)
    return made


def path(value: Any) -> Path:
    """A path; upkeep.example.toml says what a relative one is relative to."""
    if not text(value) or "\0" in value:
        raise ValueError(f"expected a path, got {value!r}")
    return Path(value)


def absolute(value: Any) -> Path:
    """An absolute path."""
    if not path(value).is_absolute():
        raise ValueError(f'expected an absolute path, got "{value}"')
    return Path(value)


def absolutes(value: Any) -> tuple[Path, ...]:
    """A list of absolute paths."""
    return tuple(absolute(each) for each in words(value))


def absolute_globs(value: Any) -> tuple[str, ...]:
    """A list of globs of absolute paths."""
    for each in words(value):
        absolute(each)
    return tuple(value)


def signal_name(value: Any) -> int:
    """The number of a signal given by name, "TERM" or "SIGTERM"."""
    name = "SIG" + text(value).upper().removeprefix("SIG")
    if name not in signal.Signals.__members__ or name in ("SIGKILL", "SIGSTOP"):
        raise ValueError(f'expected the name of a signal such as "TERM" or "INT", got "{value}"')
    return int(signal.Signals[name])


def file_mask(value: Any) -> int:
    """A file mode mask in octal digits, such as "027"."""
    digits = text(value)
    if not 1 <= len(digits) <= 4 or set(digits) - set("01234567") or int(digits, 8) > 0o777:
        raise ValueError(f'expected a umask of octal digits such as "027", got "{value}"')
    return int(digits, 8)


def environment(value: Any) -> dict[str, str]:
    """Names and values of environment variables, with names that a shell passes on."""
    for name, content in mapping(value).items():
        if not (name.isascii() and name.isidentifier()) or "\0" in text(content):
            raise ValueError(f'expected NAME = "value" without NUL, got {name!r}')
    return dict(value)


def resource_limits(value: Any) -> dict[str, int]:
    """Resource limits by setrlimit(2)'s names; whole numbers, or sizes such as "300M"."""
    import resource

    known = [each[7:].lower() for each in dir(resource) if each.startswith("RLIMIT_")]
    for name in mapping(value):
        if name not in known:
            raise ValueError(f'expected limits among {", ".join(known)}, got "{name}"')
    return {name: size(content) for name, content in value.items()}


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


@dataclass(frozen=True)
class Ready:
    """What proves that a started program works; all that is given must hold within `timeout`."""

    tcp: Annotated[tuple[str, int] | None, address] = None
    log: Annotated[str, pattern] = ""
    file: Annotated[Path | None, absolute] = None
    command: Annotated[tuple[str, ...], command_words] = ()
    timeout: Annotated[float, duration] = 30.0


def readiness(value: Any) -> Ready:
    """How to tell that a program is ready, e.g. { tcp = "127.0.0.1:5000", timeout = "30s" }."""
    return read_table(Ready, mapping(value))


@dataclass(frozen=True)
class PathSettings:
    """[paths]"""

    state: Annotated[Path | None, or_none(path)] = None
    prometheus: Annotated[Path | None, or_none(absolute)] = None


@dataclass(frozen=True)
class TelegramSettings:
    """[telegram]"""

    connect_timeout: Annotated[float, above_zero(duration)] = 5.0
    timeout: Annotated[float, above_zero(duration)] = 20.0
    tries: Annotated[int, integer(1, 10)] = 3
    budget: Annotated[float, above_zero(duration)] = 45.0
    repeat_after: Annotated[float, duration] = 900.0
    remind_after: Annotated[float, duration] = 6 * 3600.0
    expire_after: Annotated[float, duration] = 86400.0


@dataclass(frozen=True)
class JobSettings:
    """[jobs]"""

    log_max: Annotated[int, size] = 64 << 20


@dataclass(frozen=True)
class HostSettings:
    """[host]"""

    memory_alert: Annotated[float, percent] = 0.80
    memory_clear: Annotated[float, percent] = 0.75
    samples: Annotated[int, integer(1)] = 3
    quiet_load: Annotated[float, number] = 0.5
    disks: Annotated[tuple[Path, ...], absolutes] = (Path("/"),)
    disk_alert: Annotated[float, percent] = 0.90
    data_dirs: Annotated[tuple[Path, ...], absolutes] = ()
    top: Annotated[int, integer(1)] = 10
    program_attention: Annotated[int, size] = 200 << 20
    restarts_attention: Annotated[int, integer(1)] = 50


@dataclass(frozen=True)
class TaskSettings:
    """[task.NAME]"""

    name: str
    command: Annotated[Command, command_words] = Command()
    shell: Annotated[bool, flag] = False
    cwd: Annotated[Path, absolute] = Path("/")
    env: Annotated[dict[str, str], environment] = field(default_factory=dict)
    env_file: Annotated[Path | None, absolute] = None
    user: Annotated[str, text] = ""
    group: Annotated[str, text] = ""
    umask: Annotated[int, file_mask] = 0o022
    nice: Annotated[int, integer(-20, 19)] = 0
    limits: Annotated[dict[str, int], resource_limits] = field(default_factory=dict)
    log: Annotated[Path, or_none(path)] = None  # type: ignore[assignment] # config fills it in
    pid_file: Annotated[Path, or_none(path)] = None  # type: ignore[assignment] # likewise
    stop_signal: Annotated[int, signal_name] = int(signal.SIGTERM)
    stop_timeout: Annotated[float, duration] = 30.0
    state_files: Annotated[tuple[str, ...], absolute_globs] = ()
    state_files_older_than: Annotated[float, duration] = 3600.0
    verify: Annotated[float, duration] = 3.0
    ready: Annotated[Ready | None, readiness] = None
    max_rss: Annotated[int | None, above_zero(size)] = None
    max_rss_samples: Annotated[int, integer(1)] = 3
    max_fds: Annotated[int | None, integer(1)] = None
    max_age: Annotated[float | None, above_zero(duration)] = None
    heartbeat: Annotated[Path | None, absolute] = None
    heartbeat_max_age: Annotated[float, above_zero(duration)] = 600.0
    quiet_load: Annotated[float | None, number] = None
    deadline: Annotated[float, duration] = 7200.0
    restart_before_limit: Annotated[float | None, duration] = None
    depends: Annotated[tuple[str, ...], words] = ()
    crash_limit: Annotated[int, integer(1)] = 5
    crash_window: Annotated[float, above_zero(duration)] = 600.0
    crash_cooldown: Annotated[float, duration] = 1800.0
    manager: Annotated[str, choice("upkeep", "systemd", "pm2")] = "upkeep"
    unit: Annotated[str, text] = ""
    app: Annotated[str, text] = ""
    scope: Annotated[bool, flag] = False

    def __post_init__(self) -> None:
        needed = {"upkeep": "command", "systemd": "unit", "pm2": "app"}[self.manager]
        if not getattr(self, needed):
            raise ValueError(f'the key "{needed}" is missing')


@dataclass(frozen=True)
class CleanupSettings:
    """[cleanup.NAME]"""

    name: str
    paths: Annotated[tuple[str, ...], roots]
    match: Annotated[tuple[str, ...], some_words, "Globs of files that may go."]
    exclude: Annotated[tuple[str, ...], words, "Globs of files that stay."] = ()
    older_than: Annotated[float | None, duration, "Age from which a file goes."] = None
    age: Annotated[str, choice("mtime", "name", "records"), "mtime, name or records."] = "mtime"
    action: Annotated[
        str,
        choice("delete", "compress", "truncate", "prune"),
        "delete, compress, truncate or prune (drop old records).",
    ] = "delete"
    timestamp_field: Annotated[str, text, "Key of a record's time."] = "timestamp"
    larger_than: Annotated[int | None, or_none(size), "Only files larger than that."] = None
    keep_newest: Annotated[int, integer(0), "Files kept of each group."] = 0
    max_total: Annotated[int | None, or_none(size), "Most bytes of all that matches."] = None
    min_free: Annotated[int | float | None, or_none(free_space), "Least free space."] = None
    min_age: Annotated[float, duration, "max_total and min_free spare younger ones."] = 86400.0
    allow_all: Annotated[bool, flag] = False
    remove_empty_dirs: Annotated[bool, flag] = False

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
