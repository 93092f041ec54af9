"""The history of memory: `<state>/memory/<day>.jsonl`, one line per reading.

A line is {"time", "boot_id", "uptime", "used", "limit", "swap", "swapped", "oom_kills",
"disks": {mount point: [used bytes, free bytes]}, "dirs": {directory: bytes}, "programs":
[[name, PID and start ticks of its oldest process, processes, RSS in KiB, PSS in KiB], ...]}.
"dirs" is there about once an hour; the PSS is left out where it is not known.
"""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from upkeep import files, proc

DAYS = 31  # days with samples that are kept
MOST_BYTES = 10_000_000
MOST_PROGRAMS = 25  # the largest ones of every reading; tasks are always kept

Row = dict[str, Any]


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

    @property
    def life(self) -> tuple[str, int, int]:
        """What stays the same until the program is started anew."""
        return self.boot_id, self.pid, self.start_ticks


Series = dict[str, list[Point]]


def append(state: Path, row: Row) -> None:
    """Add one reading and drop what exceeds the bounds. Raises OSError.

    What is too old is counted in days that have samples: a clock that was wrong deletes nothing.
    """
    day = datetime.fromtimestamp(row["time"], UTC).strftime("%Y-%m-%d")
    files.append_line(
        state / "memory" / f"{day}.jsonl",
        json.dumps(row, ensure_ascii=False, separators=(",", ":")),
    )
    total = 0
    for count, path in enumerate(reversed(_days(state)), 1):
        total += path.stat().st_size
        if count > DAYS or (total > MOST_BYTES and count > 1):
            path.unlink()


def _days(state: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted((state / "memory").glob("[0-9]*-[0-9]*-[0-9]*.jsonl"))
    return []


def read(state: Path, seconds: float, now: float) -> list[Row]:
    """The readings of the last `seconds`, in the order they were made; others' lines left out."""
    found = []
    for path in _days(state)[-math.ceil(seconds / 86400) - 1 :]:
        with contextlib.suppress(OSError):
            found += [row for row in map(_object, path.read_bytes().split(b"\n")) if row]
    return [row for row in found if _is_row(row) and row["time"] >= now - seconds]


def _object(line: bytes) -> Row | None:
    try:
        value = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e18


def _is_row(row: Row) -> bool:
    numbers = ("time", "uptime", "used", "limit", "swap", "swapped")
    return (
        all(_is_number(row.get(name)) for name in numbers)
        and isinstance(row.get("boot_id"), str)
        and isinstance(row.get("disks"), dict)
        and isinstance(row.get("programs"), list)
        and all(isinstance(each, list) and len(each) > 4 for each in row["programs"])
        and all(map(_is_number, (each for item in row["programs"] for each in item[1:])))
    )


def series(rows: Iterable[Row]) -> Series:
    """The readings of every program, by its name."""
    found: Series = {}
    for row in rows:
        for name, pid, start, _processes, rss, *pss in row["programs"]:
            age = row["uptime"] - start / proc.TICKS_PER_SECOND
            proportional = pss[0] * 1024 if pss else None
            point = Point(row["time"], row["boot_id"], pid, start, rss * 1024, age, proportional)
            found.setdefault(name, []).append(point)
    return found


def parse(lines: Iterable[bytes]) -> tuple[Series, int]:
    """A history from elsewhere, one object per line, and how many lines were no such object."""
    found: Series = {}
    skipped = 0
    for line in lines:
        if not line.strip():
            continue
        row = _object(line) or {}
        if _is_point(row):
            point = Point(*(row.get(name) for name in Point._fields))  # type: ignore[arg-type]
            found.setdefault(row["name"], []).append(point)
        else:
            skipped += 1
    return found, skipped


def _is_point(row: Row) -> bool:
    names = isinstance(row.get("name"), str) and isinstance(row.get("boot_id"), str)
    needed = [row.get(each) for each in ("time", "pid", "start_ticks", "rss_bytes", "age_seconds")]
    optional = [row[each] for each in ("pss_bytes", "limit_bytes") if row.get(each) is not None]
    return names and all(map(_is_number, needed + optional))


def export(found: Series) -> Iterator[str]:
    """`found` as lines that `parse` reads, in the order of time."""
    rows = sorted(
        ((point, name) for name, points in found.items() for point in points),
        key=lambda item: item[0].time,
    )
    for point, name in rows:
        known = {key: value for key, value in point._asdict().items() if value is not None}
        yield json.dumps({"name": name, **known}, ensure_ascii=False)
