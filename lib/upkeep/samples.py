"""The history of memory: `<state>/memory/<day>.jsonl`, one line per reading.

A line has time, boot_id, uptime, used, limit, swap_used, swapped and oom_kills (see `memory`),
"disks" {mount point: [used, free]}, about once an hour "dirs" {directory: [bytes]}, and "programs"
[[name, PID and start ticks of its oldest process, processes, RSS in KiB, PSS in KiB if known]].
"""

import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from upkeep import files, proc

DAYS = 31  # days with samples that are kept
MOST_BYTES = 10_000_000
Row = dict[str, Any]
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


class Point(NamedTuple):
    """One program at one moment. Age and identity belong to its oldest process."""

    time: float
    boot_id: str
    pid: int
    start_ticks: int
    rss_bytes: int
    age_seconds: float
    pss_bytes: int | None = None
    limit_bytes: int | None = None


life_of = attrgetter("boot_id", "pid", "start_ticks")  # the same until a program is started anew
Series = dict[str, list[Point]]
_NUMBERS = ("pid", "start_ticks", "rss_bytes", "pss_bytes", "limit_bytes")
_LONGEST_NAME = 200
_MOST_SECONDS = 1e11  # no Unix time is beyond it
_MOST_NUMBER = 1 << 62  # of bytes, PIDs and ticks; what is larger is damage
_Life = tuple[str, int, int, float]  # name, PID and start ticks of a program, its start in seconds
_lives: dict[tuple[str, int, int], _Life] = {}
_BEGUN = re.compile(rb'\{"time":(\d+),')
_DECODER = json.JSONDecoder(parse_constant=lambda name: [name])  # a NaN is no number here


def _count(value: Any) -> int:
    if not 0 <= value < _MOST_NUMBER:
        raise ValueError
    return int(value)


def _seconds(value: Any) -> float:
    if abs(value) > _MOST_SECONDS:
        raise ValueError
    return float(value)


_KINDS: dict[str, Callable[[Any], Any]] = {
    "time": _seconds,
    "boot_id": str,
    "age_seconds": _seconds,
    **dict.fromkeys(_NUMBERS, _count),
}


def append(state: Path, row: Row) -> None:
    """Add one reading and drop what exceeds the bounds. Raises OSError.

    What is too old is counted in days that have samples: a clock that was wrong deletes nothing.
    """
    day = _day(row["time"])
    data = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    files.append_line(state / "memory" / f"{day}.jsonl", data)
    total = 0
    for count, path in enumerate(reversed(_days(state)), 1):
        total += path.stat().st_size
        if count > DAYS or (total > MOST_BYTES and count > 1):
            path.unlink()


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d")


def _days(state: Path) -> list[Path]:
    return sorted((state / "memory").glob("[0-9]*-[0-9]*-[0-9]*.jsonl"))


def read(state: Path, seconds: float, now: float, dense: float = math.inf) -> tuple[list[Row], int]:
    """The last `seconds` of readings, in their order, and how many lines were none.

    Each has "programs": [(name, Point), ...]. Of days older than `dense` seconds one reading in
    twelve is taken, about one an hour. Raises OSError.
    """
    found, skipped = [], 0
    days = [path for path in _days(state) if path.stem <= _day(now + 86400)]  # a wrong clock's: no
    for count, path in enumerate(reversed(days[-math.ceil(seconds / 86400) - 1 :])):
        rows, every = [], 12 if count * 86400 > dense else 1
        with open(path, "rb", opener=files.open_quietly) as lines:
            for data in itertools.islice(lines, 0, None, every):
                begun = _BEGUN.match(data)
                if begun and int(begun[1]) < now - seconds:
                    continue  # too old, and not worth to be taken apart
                try:
                    rows.append(with_points(_object(data)))
                except _DAMAGE:
                    skipped += bool(data.strip())
        found.append(rows)
    return list(itertools.chain(*reversed(found))), skipped


def _object(data: bytes) -> Row:
    value: Row = _DECODER.decode(data.decode("utf-8", "surrogatepass"))
    _seconds(value["time"])
    return value


def with_points(row: Row) -> Row:
    """`row` with points for "programs". A foreign one raises what `_DAMAGE` lists."""
    time, boot_id, uptime = row["time"], sys.intern(row["boot_id"]), row["uptime"]
    points = []
    for name, pid, start, _processes, rss, *pss in row["programs"]:
        name, pid, start, began = _lives.get((name, pid, start)) or _life(name, pid, start)
        known = pss[0] << 10 if pss else None
        if rss < 0:
            raise ValueError
        points.append((name, Point(time, boot_id, pid, start, rss << 10, uptime - began, known)))
    _count(abs(uptime))
    for kind, length in (("disks", 2), ("dirs", 1)):
        for sizes in row.get(kind, {}).values():
            if len([_count(size) for size in sizes]) != length:
                raise ValueError
    kept: Row = {name: row[name] for name in ("disks", "dirs") if name in row}
    moment = {"time": time, "boot_id": boot_id, "uptime": uptime, "swapped": _count(row["swapped"])}
    return {**moment, **kept, "programs": points}


def _life(name: str, pid: int, start: int) -> _Life:
    """Remember what the points of one life share: memory for many, and a check for each."""
    if not 0 <= pid < _MOST_NUMBER or abs(start) > _MOST_NUMBER:
        raise ValueError
    life = (sys.intern(name), pid, start, start / proc.TICKS_PER_SECOND)
    return _lives.setdefault(life[:3], life)


def series(rows: Iterable[Row]) -> Series:
    """What `read` returned, by the names of programs; taken out of the rows: there are many."""
    found: Series = {}
    for row in rows:
        for name, point in row.pop("programs"):
            found.setdefault(name, []).append(point)
    return found


def parse(lines: Iterable[bytes]) -> tuple[Series, int]:
    """A history from elsewhere, as `export` writes it, and how many lines were left out."""
    found: Series = {}
    skipped = 0
    for data in lines:
        try:
            row = _object(data)
            known = {k: kind(row[k]) for k, kind in _KINDS.items() if row.get(k) is not None}
            found.setdefault(str(row["name"])[:_LONGEST_NAME], []).append(Point(**known))
        except _DAMAGE:
            skipped += bool(data.strip())
    return found, skipped


def export(found: Series) -> Iterator[str]:
    """`found` as lines that `parse` reads, in the order of time."""
    rows = [(point, name) for name, points in found.items() for point in points]
    for point, name in sorted(rows, key=lambda row: row[0].time):
        known = {key: value for key, value in point._asdict().items() if value is not None}
        yield json.dumps({"name": name, **known}, ensure_ascii=False)
