"""Sizes, durations and times: from text to numbers and back.

Sizes are bytes with powers of 1024, durations are seconds. Parsers raise ValueError with a text
that begins with "expected", ready to stand behind the name of an option or a key.
"""

import re
from datetime import datetime

SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
DURATION_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw]?)", re.ASCII)
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+|\d+(?:\.\d+)?", re.ASCII)
_LONGEST_NUMBER = 20


def parse_size(text: str) -> int:
    """Bytes in `text`: "300M", "300MiB", "1.5G"; a bare number is bytes."""
    match = _SIZE.fullmatch(text.strip())
    if not match or len(text) > _LONGEST_NUMBER:
        raise ValueError(f'expected a size such as "300M" or "1.5G", got "{text}"')
    return int(float(match[1]) * SIZE_UNITS[match[2].upper()])


def parse_duration(text: str) -> float:
    """Seconds in `text`: "90s", "0.5s", "5m", "2h", "90d", "1h30m"; a bare number is seconds."""
    if not _DURATION.fullmatch(text.strip()) or len(text) > _LONGEST_NUMBER:
        raise ValueError(f'expected a duration such as "90s", "5m" or "90d", got "{text}"')
    parts = _DURATION_PART.findall(text.strip())
    return sum(float(number) * DURATION_UNITS[unit] for number, unit in parts)


def parse_percent(text: str) -> float:
    """The fraction 0.0 to 1.0 in `text`, such as "80%"."""
    number = text.strip().removesuffix("%")
    if number == text.strip() or not re.fullmatch(r"\d{1,3}(\.\d+)?", number, re.ASCII):
        raise ValueError(f'expected a percentage such as "80%", got "{text}"')
    if float(number) > 100:
        raise ValueError(f'expected at most "100%", got "{text}"')
    return float(number) / 100


def format_size(size: float) -> str:
    """`size` bytes for people: "0 B", "840 KiB", "1.2 GiB"."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1023.5 or unit == "TiB":
            break
        value /= 1024
    digits = 1 if abs(value) < 9.95 and unit != "B" else 0
    return f"{value:.{digits}f} {unit}"


def format_duration(seconds: float) -> str:
    """`seconds` for people, at most two units: "0.2 s", "45 s", "3 min 20 s", "2 d 4 h"."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    rest = round(seconds)
    for size, unit, small_size, small in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if rest >= size:
            less = rest % size // small_size
            return f"{rest // size} {unit}" + (f" {less} {small}" if less else "")
    return f"{rest} s"


def local_time(timestamp: float) -> str:
    """Unix `timestamp` as local ISO 8601 with its offset: "2026-02-13T03:00:01+09:00".

    A time beyond the calendar, as a damaged file may hold one, is given as the bare number.
    """
    try:
        return datetime.fromtimestamp(timestamp).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"@{timestamp:g}"
