"""Readers of what stands in upkeep.toml: each turns a TOML value into the value of a key.

What does not fit raises ValueError with a text that begins with "expected".
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upkeep import units

Reader = Callable[[Any], Any]


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


optional_size = or_none(size)
optional_space = or_none(free_space)


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
    try:
        parts = _split(value) if isinstance(value, str) else [text(x) for x in _list(value)]
    except ValueError as error:
        raise ValueError(f"expected a command, got {value!r}: {error}") from None
    if not parts or not parts[0] or any("\0" in part for part in parts):
        raise ValueError("expected a command of at least one word, without NUL")
    made = Command(parts)
    made.text = value if isinstance(value, str) else " ".join(parts)
    return made


def _split(line: str) -> list[str]:
    import shlex

    return shlex.split(line)


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
