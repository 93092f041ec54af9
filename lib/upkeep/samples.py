"""The history of memory: `<state>/memory/<day>.jsonl`, one line per reading.

A line is {"time", "boot_id", "uptime", "used", "limit", "swap", "swapped", "oom_kills",
"disks": {mount point: [used bytes, free bytes]}, "dirs": {directory: bytes}, "programs":
[[name, PID and start ticks of its oldest process, processes, RSS in KiB, PSS in KiB], ...]}.
"dirs" is there about once an hour; the PSS is left out where it is not known.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from upkeep import files, memory, proc, programs
from upkeep.config import Config
from upkeep.memory import Host
from upkeep.programs import Program

DAYS = 31  # days with samples that are kept
MOST_BYTES = 10_000_000
MOST_PROGRAMS = 25  # of every reading: the tasks, then the largest

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


@dataclass
class Reading:
    """Everything that is read at one moment."""

    time: float
    host: Host
    programs: list[Program]
    disks: dict[str, tuple[int, int]]  # (used, free) bytes
    directories: dict[str, int] = field(default_factory=dict)  # bytes; measured once an hour

    @property
    def kept(self) -> list[Program]:
        """The programs that are worth to be remembered: the largest, and the tasks first of all."""
        ranked = sorted(self.programs, key=lambda each: (not each.task, -each.rss_bytes))
        return [each for each in ranked[:MOST_PROGRAMS] if each.leader]

    def line(self) -> Row:
        """This reading as a line of the history."""
        host = self.host
        row = {
            "time": round(self.time),
            "boot_id": host.boot_id,
            "uptime": round(host.uptime_seconds),
            "used": host.used_bytes,
            "limit": host.limit_bytes,
            "swap": host.swap_used_bytes,
            "swapped": host.swapped_bytes,
            "oom_kills": host.oom_kills,
            "disks": self.disks,
            "programs": [_cells(each) for each in self.kept],
        }
        return row | ({"dirs": self.directories} if self.directories else {})


def take(settings: Config, root: str, now: float, detailed: int) -> Reading:
    """Read everything but the directories; PSS and descriptors of the `detailed` largest programs.

    Raises OperatorError when `root` is no /proc.
    """
    host = memory.read_host(root)
    found = programs.collect(root, settings, host.boot_id)
    programs.read_details(found[:detailed], root)
    return Reading(now, host, found, memory.read_disks(settings.host.disks))


def _cells(each: Program) -> list[Any]:
    life = [each.leader.pid, each.leader.start_ticks] if each.leader else []
    pss = [] if each.pss_bytes is None else [each.pss_bytes >> 10]
    return [each.name, *life, len(each.pids), each.rss_bytes >> 10, *pss]


def append(state: Path, line: Row) -> None:
    """Add one reading and drop what exceeds the bounds. Raises OSError.

    What is too old is counted in days that have samples: a clock that was wrong deletes nothing.
    """
    day = datetime.fromtimestamp(line["time"], UTC).strftime("%Y-%m-%d")
    data = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    files.append_line(state / "memory" / f"{day}.jsonl", data)
    total = 0
    for count, path in enumerate(reversed(_days(state)), 1):
        total += path.stat().st_size
        if count > DAYS or (total > MOST_BYTES and count > 1):
            path.unlink()


def _days(state: Path) -> list[Path]:
    return sorted((state / "memory").glob("[0-9]*-[0-9]*-[0-9]*.jsonl"))


def read(state: Path, seconds: float, now: float) -> tuple[list[Row], int]:
    """The readings of the last `seconds` in their order, and how many lines were none."""
    found, skipped = [], 0
    for path in _days(state)[-math.ceil(seconds / 86400) - 1 :]:
        for line in path.read_bytes().splitlines():
            try:
                value = with_points(_object(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                skipped += bool(line.strip())
                continue
            if value["time"] >= now - seconds:
                found.append(value)
    return found, skipped


def with_points(line: Row) -> Row:
    """`line` with its programs as "points": [(name, Point), ...]. Raises for a foreign line."""
    line["uptime"] + line["swapped"] + len(line["disks"]) + len(line.get("dirs", {}))
    return line | {"points": list(_points(line))}


def _object(line: bytes) -> Row:
    value = json.loads(line, parse_constant=lambda name: [name])  # a NaN is no number here
    if not isinstance(value, dict) or not math.isfinite(value["time"]):
        raise TypeError
    return value


def _points(line: Row) -> Iterator[tuple[str, Point]]:
    for name, pid, start, _processes, rss, *pss in line["programs"]:
        age = line["uptime"] - start / proc.TICKS_PER_SECOND
        proportional = pss[0] * 1024 if pss else None
        yield name, Point(line["time"], line["boot_id"], pid, start, rss * 1024, age, proportional)


def series(readings: Iterable[Row]) -> Series:
    """What `read` returned, as the readings of every program by its name."""
    found: Series = {}
    for reading in readings:
        for name, point in reading["points"]:
            found.setdefault(name, []).append(point)
    return found


def parse(lines: Iterable[bytes]) -> tuple[Series, int]:
    """A history from elsewhere, one object per line, and how many lines were no such object."""
    found: Series = {}
    skipped = 0
    for line in lines:
        try:
            value = _object(line)
            point = Point(
                time=value["time"],
                boot_id=str(value["boot_id"]),
                pid=int(value["pid"]),
                start_ticks=int(value["start_ticks"]),
                rss_bytes=int(value["rss_bytes"]),
                age_seconds=float(value["age_seconds"]),
                pss_bytes=_optional(value.get("pss_bytes")),
                limit_bytes=_optional(value.get("limit_bytes")),
            )
            found.setdefault(str(value["name"]), []).append(point)
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            skipped += bool(line.strip())
    return found, skipped


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)


def export(found: Series) -> Iterator[str]:
    """`found` as lines that `parse` reads, in the order of time."""
    rows = [(point, name) for name, points in found.items() for point in points]
    for point, name in sorted(rows, key=lambda item: item[0].time):
        known = {key: value for key, value in point._asdict().items() if value is not None}
        yield json.dumps({"name": name, **known}, ensure_ascii=False)
