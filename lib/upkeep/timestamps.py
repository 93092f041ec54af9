"""When a file or a record is from. What is not clear is None; in doubt the later time counts."""

import contextlib
import importlib.util
import json
import os
import re
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import itemgetter
from typing import Any

NAME_DATE = re.compile(r"(?<!\d)(\d{4})(-?)(\d{2})\2(\d{2})(?!\d)", re.ASCII)
_NUMBER = re.compile(r"\d{9,19}(\.\d+)?", re.ASCII)
_ZONE_NAME = re.compile(r"(.*\d) ([A-Z]{2,5})", re.ASCII)
_WIDEST_ZONE = timedelta(hours=12)  # local time is at most that far behind UTC
_UNITS = (1.0, 1e3, 1e6, 1e9)  # a second in seconds, ms, µs, ns
_EARLIEST, _LATEST = 1e9, 1e11  # seconds (2001, 5138) that are a time; the units do not overlap

Times = list[float | None]  # Unix seconds


def name_date(name: str) -> float | None:
    """When the local day of the latest date (YYYY-MM-DD, YYYYMMDD) in `name` ends, Unix seconds."""
    ends = []
    for year, _, month, day in NAME_DATE.findall(name):
        try:
            midnight = datetime(int(year), int(month), int(day)) + timedelta(days=1)
            ends.append(_latest(midnight))
        except (ValueError, OverflowError):
            continue
    return max(ends, default=None)


def record_times(values: list[Any]) -> Times:
    """`record_time` of each value; fast where all are numbers of one unit."""
    if {*map(type, values)} <= {int, float}:
        unit = _unit(min(values))
        if unit and unit == _unit(max(values)):
            return [value / unit for value in values]
    return list(map(record_time, values))


def record_time(value: object) -> float | None:
    """Unix seconds of a JSON value: a number since 1970, its magnitude tells the unit, or ISO 8601
    as loggers write it. Without a zone it is local time; no number is from before 2001."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return _text_time(value)
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    unit = _unit(value)
    return value / unit if unit else None


def _unit(number: float) -> float | None:
    """How many of `number` make a second, None for one that is no time."""
    return next((each for each in _UNITS if _EARLIEST * each <= number < _LATEST * each), None)


def _latest(when: datetime) -> float:
    """Unix seconds: a local time comes twice in one night of the year, and never in another."""
    return max(when.timestamp(), when.replace(fold=1).timestamp())


def _text_time(text: str) -> float | None:
    named = _ZONE_NAME.fullmatch(text) if text[-2:].isalpha() else None
    try:
        when = datetime.fromisoformat(named[1] if named else text)
        if named:
            when = when.replace(tzinfo=UTC) + _WIDEST_ZONE * (named[2] not in ("UTC", "GMT"))
        elif len(text) <= len("2026-02-13"):  # a day (or week): its records are from all of it
            when += timedelta(days=7 if "W" in text else 1)
        return when.timestamp() if when.tzinfo else _latest(when)
    except (ValueError, OverflowError):
        return None


def _refuse(constant: str) -> object:
    raise ValueError(constant)  # NaN and Infinity are no JSON


_plain = json.JSONDecoder(parse_constant=_refuse).decode
_pairs = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=tuple).decode
_NO_RECORD = (ValueError, RecursionError, TypeError, LookupError)
_MARK = os.urandom(8).hex()


def _parse(lines: list[bytes]) -> list[Any]:
    """The values of lines of JSON, parsed as one array: in half the time of json.loads for each. A
    mark nobody can know stands between them: found where it was put, it proves that every line is
    one value. Raises ValueError and RecursionError."""
    between = f',"{_MARK}",'.encode()
    values: list[Any] = _plain((b"[" + between.join(lines) + b"]").decode())
    if values[1::2] != [_MARK] * (len(lines) - 1) or len(values) % 2 == 0:
        raise ValueError("a line is no JSON value")
    return values[::2]


class Reader:
    """Reads the times in the key `name` of records. With orjson (the extra "fast") most lines are
    read faster, to the same end."""

    def __init__(self, name: str) -> None:
        self._name = name
        fast = importlib.util.find_spec("orjson")  # refuses a little more, and takes nothing more
        self._parse: Any = partial(map, importlib.import_module("orjson").loads) if fast else _parse
        self._quoted = json.dumps(name, ensure_ascii=False).encode()
        plain = name.isascii() and "/" not in name
        self._escape = b"\\u00" if plain else b"\\"  # what can spell a part of the name

    def times(self, lines: list[bytes]) -> Times:
        """The time of each line in Unix seconds, None where it is not clear."""
        if not self._may_repeat(lines):
            with contextlib.suppress(*_NO_RECORD):
                return record_times(list(map(itemgetter(self._name), self._parse(lines))))
        if len(lines) < 16:
            return list(map(self.time, lines))
        step = len(lines) // 8  # most of the lines are good ones
        parts = (lines[begin : begin + step] for begin in range(0, len(lines), step))
        return [when for part in parts for when in self.times(part)]

    def time(self, line: bytes) -> float | None:
        """The time of one line. A key twice makes it unclear."""
        try:
            record = _pairs(line.decode())
            [value] = [value for key, value in record if key == self._name]
        except _NO_RECORD:
            return None
        return record_time(value) if isinstance(record, tuple) else None  # else it is an array

    def _may_repeat(self, lines: list[bytes]) -> bool:
        """Whether one of `lines` may have the key twice, as it is or spelled with an escape, should
        all have it."""
        text = b"".join(lines)
        if text.count(self._quoted) != len(lines):
            return True
        return b"\\" in text and self._escape in text  # the first is found, or not, a lot faster
