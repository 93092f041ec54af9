"""When a file or a record is from. What is not clear is None; in doubt the later time counts."""

import contextlib
import importlib.util
import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

NAME_DATE = re.compile(r"(?<!\d)(\d{4})(-?)(\d{2})\2(\d{2})(?!\d)", re.ASCII)
_NUMBER = re.compile(r"\d{9,19}(\.\d+)?", re.ASCII)
_ZONE_NAME = re.compile(r"(.*\d) ([A-Z]{2,5})", re.ASCII)
_WIDEST_ZONE = timedelta(hours=12)  # local time is at most that far behind UTC
_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))  # below this number, per second
_EARLIEST = 1e9  # a smaller number of seconds (2001) is no time

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
    if {type(value) for value in values} <= {int, float}:
        unit = _unit(min(values, default=0))
        if unit and unit == _unit(max(values)):
            return [value / unit for value in values]
    return [record_time(value) for value in values]


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
    for limit, unit in _UNITS:
        if number < limit:
            return unit if number / unit >= _EARLIEST else None
    return None


def _latest(when: datetime) -> float:
    """Unix seconds: a local time comes twice in one night of the year, and never in another."""
    return max(when.replace(fold=fold).timestamp() for fold in (0, 1))


def _text_time(text: str) -> float | None:
    named = _ZONE_NAME.fullmatch(text)
    try:
        when = datetime.fromisoformat(named[1] if named else text)
        if named:
            when = when.replace(tzinfo=UTC) + _WIDEST_ZONE * (named[2] not in ("UTC", "GMT"))
        elif len(text) <= len("2026-02-13"):  # a day (or week): its records are from all of it
            when += timedelta(days=7 if "W" in text else 1)
        return _latest(when)
    except (ValueError, OverflowError):
        return None


def _refuse(constant: str) -> object:
    raise ValueError(constant)  # NaN and Infinity are no JSON


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object] | None:
    return dict(pairs) if len(dict(pairs)) == len(pairs) else None


_plain = json.JSONDecoder(parse_constant=_refuse).decode
_strict = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_without_repeats).decode
_NO_RECORD = (ValueError, RecursionError, TypeError, LookupError)


class Reader:
    """Reads the times in the key `name` of records. With orjson (the extra "fast") most lines are
    read faster, to the same end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._quoted = json.dumps(name, ensure_ascii=False).encode()
        self._mark = os.urandom(8).hex()
        fast = importlib.util.find_spec("orjson")
        self._parse: Any = importlib.import_module("orjson").loads if fast else _plain

    def times(self, lines: list[bytes]) -> Times:
        """The time of each line in Unix seconds, None where it is not clear. They are parsed as one
        array, which is a lot faster. A mark nobody can know stands between them: found where it was
        put, it proves that every line is one JSON value."""
        between = f',"{self._mark}",'.encode()
        with contextlib.suppress(*_NO_RECORD):
            if {line.count(self._quoted) for line in lines} == {1}:
                values = self._parse((b"[" + between.join(lines) + b"]").decode())
                if values[1::2] == [self._mark] * (len(lines) - 1) and len(values) % 2:
                    return record_times([record[self._name] for record in values[::2]])
        return [self.time(line) for line in lines]

    def time(self, line: bytes) -> float | None:
        """The time of one line. A key twice makes it unclear."""
        try:
            return record_time(_strict(line.decode())[self._name])
        except _NO_RECORD:
            return None
