"""When a file or a record is from: dates in file names, times inside JSON records.

What cannot be told for sure is None, never a guess: a record without a clear time is kept. Where
a text leaves a doubt (a zone's short name, the hour that a clock is put back), the later time
counts, so that nothing goes too early.
"""

import re
from datetime import UTC, datetime, timedelta

_NAME_DATE = re.compile(r"(?<!\d)(\d{4})(-?)(\d{2})\2(\d{2})(?!\d)", re.ASCII)
_NUMBER = re.compile(r"\d{9,19}(\.\d+)?", re.ASCII)
_ZONE_NAME = re.compile(r"(.*\d) ([A-Z]{2,5})", re.ASCII)
_WIDEST_ZONE = timedelta(hours=12)  # local time is at most that far behind UTC
_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))  # below this number, per second


def name_date(name: str) -> float | None:
    """When the local day of the latest date in `name` has ended (Unix seconds).

    A date is YYYY-MM-DD or YYYYMMDD; one that is not in the calendar does not count.
    """
    ends = []
    for year, _, month, day in _NAME_DATE.findall(name):
        try:
            midnight = datetime(int(year), int(month), int(day)) + timedelta(days=1)
            ends.append(midnight.replace(fold=1).timestamp())
        except (ValueError, OverflowError):
            continue
    return max(ends, default=None)


def without_date(name: str) -> str:
    """`name` with every date replaced, alike for all files of one series."""
    return _NAME_DATE.sub("*", name)


def record_time(value: object) -> float | None:
    """Unix seconds of a JSON value; None when it is no clear time.

    Numbers, also as strings, are seconds, milli-, micro- or nanoseconds since 1970 by magnitude
    (so nothing before 2001 is recognised); other strings are ISO 8601 or what loggers make of it:
    a blank for the T, a comma for the point, "+0800", a zone's short name behind a blank.
    A text without a zone is local time.
    """
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return _text_time(value)
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1e9 <= value < 1e20:
        return None
    return next(value / unit for limit, unit in _UNITS if value < limit)


def _text_time(text: str) -> float | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        named = _ZONE_NAME.fullmatch(text)
        return _zone_time(named[1], named[2]) if named else None
    if when.tzinfo is None:
        when = when.replace(fold=1)
    if len(text) <= len("2026-02-13"):  # a day: its records are from any time of it
        when += timedelta(days=1)
    return _unix(when)


def _zone_time(text: str, zone: str) -> float | None:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    slack = timedelta() if zone in ("UTC", "GMT") else _WIDEST_ZONE
    return _unix(when.replace(tzinfo=UTC) + slack) if when.tzinfo is None else None


def _unix(when: datetime) -> float | None:
    try:
        return when.timestamp()
    except (OverflowError, ValueError, OSError):
        return None
