"""What the memory report says, as one document: bytes and seconds, in the shape of its JSON."""

import collections
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from upkeep import history, leak, proc
from upkeep.config import Config
from upkeep.samples import Point, Reading, Row, Series
from upkeep.settings import HostSettings
from upkeep.units import format_size

DAY = 86400.0
Document = dict[str, Any]


def document(reading: Reading, past: Sequence[Row], programs: list[Document]) -> Document:
    """The whole report. `past` is the history, oldest first; `programs` as `live_rows` gives it."""
    found = reading.programs
    return {
        "time": round(reading.time, 3),
        "host": asdict(reading.host) | {"swap_rate_bytes_per_second": _swap_rate(reading, past)},
        "coverage": {
            "pss_known": sum(len(each.pids) for each in found if each.pss_bytes is not None),
            "processes": sum(len(each.pids) for each in found),
        },
        "programs": programs,
        "disks": [_disk(path, *sizes, past) for path, sizes in reading.disks.items()],
        "directories": [
            {"path": path, "size_bytes": size, "growth_bytes_per_day": _growth(past, "dirs", path)}
            for path, size in reading.directories.items()
        ],
    }


def _swap_rate(reading: Reading, past: Sequence[Row]) -> float | None:
    """Bytes per second moved from and to swap since the last sample of this boot."""
    host = reading.host
    seconds = host.uptime_seconds - past[-1]["uptime"] if past else 0.0
    if seconds <= 0 or past[-1]["boot_id"] != host.boot_id:
        return None
    return float(host.swapped_bytes - past[-1]["swapped"]) / seconds


def _disk(path: str, used: int, free: int, past: Sequence[Row]) -> Document:
    growth = _growth(past, "disks", path)
    days = free / growth if growth and growth > 0 else None
    return {"path": path, "used_bytes": used, "free_bytes": free, "days_until_full": days}


def _growth(past: Sequence[Row], kind: str, path: str) -> float | None:
    """Bytes per day of a disk or directory, over what the history has of the last three days."""
    found = []
    for row in past:
        size = row.get(kind, {}).get(path)
        if size is not None:
            found.append((row["time"] / DAY, float(size[0] if isinstance(size, list) else size)))
    found = found[:: len(found) // 48 + 1]
    if len(found) < 3 or found[-1][0] - found[0][0] < 0.25:
        return None
    return leak.sen_slope(found)[0]


def program_row(
    name: str, points: Sequence[Point], limit: float, now: float, since: float
) -> Document:
    """What a history tells about one program; the trend of the last `since` seconds is judged."""
    judged = leak.judge([each for each in points if each.time >= now - since], limit, now)
    last = points[-1] if points else Point(now, "", 0, 0, 0, 0.0)
    return {
        "name": name,
        "task": False,
        "processes": 1,
        "rss_bytes": last.rss_bytes,
        "pss_bytes": last.pss_bytes,
        "fds": None,
        "age_seconds": round(last.age_seconds, 2),
        "restarts_24h": _restarts(points, now - DAY),
        "restarts_7d": _restarts(points, now - 7 * DAY),
        "limit_bytes": limit,
        **judged._asdict(),
    }


def _restarts(points: Sequence[Point], since: float) -> int:
    """How many lives began after the first. One that was seen once may be a short job: no life."""
    counts = collections.Counter(point.life for point in points if point.time >= since)
    return max(0, sum(count > 1 for count in counts.values()) - 1)


def foreign_rows(settings: Config, found: Series, limit: float, since: float) -> list[Document]:
    """A row for every program of a history from elsewhere, the largest first."""
    now = max((points[-1].time for points in found.values()), default=0.0)
    rows = []
    for name, points in found.items():
        task = settings.tasks.get(name)
        limit_of_task = task.max_rss if task else None
        rows.append(program_row(name, points, limit_of_task or limit, now, since))
    return sorted(rows, key=lambda row: -row["rss_bytes"])


def live_rows(settings: Config, reading: Reading, found: Series, since: float) -> list[Document]:
    """A row for every program that runs, and for every task."""
    now, host, limits = reading.time, reading.host, leak.limits(settings, reading)
    day, week = (
        history.since(settings.state, days * DAY, now, host.uptime_seconds, host.boot_id)
        for days in (1, 7)
    )
    rows = []
    for each in reading.programs:
        row = program_row(each.name, found.get(each.name, []), limits[each.name], now, since)
        row |= {"task": each.task, "processes": len(each.pids), "rss_bytes": each.rss_bytes}
        row |= {"pss_bytes": each.pss_bytes, "fds": each.fds}
        if each.leader:
            age = host.uptime_seconds - each.leader.start_ticks / proc.TICKS_PER_SECOND
            row["age_seconds"] = round(age, 2)
        if each.task:
            row["restarts_24h"] = history.count_restarts(day, each.name)
            row["restarts_7d"] = history.count_restarts(week, each.name)
        rows.append(row)
    return rows


def problems(found: Document, limits: HostSettings) -> list[str]:
    """What is wrong, each with its figure and the limit it was compared with."""
    wrong, host = [], found["host"]
    share = host["used_bytes"] / host["limit_bytes"]
    if share > limits.memory_alert:
        size = format_size(host["limit_bytes"])
        wrong.append(f"memory {share:.0%} of {size} in use > {limits.memory_alert:.0%}")
    for disk in found["disks"]:
        share = disk["used_bytes"] / max(1, disk["used_bytes"] + disk["free_bytes"])
        if share > limits.disk_alert:
            wrong.append(f"disk {disk['path']} {share:.0%} in use > {limits.disk_alert:.0%}")
    leaks = [row for row in found["programs"] if row["verdict"] == "leak"]
    return wrong + [f"{row['name']}: {leak.describe(row)}" for row in leaks]


def attention(found: Document, limits: HostSettings) -> list[str]:
    """What is worth a look, though it breaks no limit."""
    size, restarts = limits.program_attention, limits.restarts_attention
    large = [row for row in found["programs"] if row["rss_bytes"] > size]
    often = [row for row in found["programs"] if row["restarts_24h"] > restarts]
    return [
        *(f"{row['name']}: {format_size(row['rss_bytes'])} > {format_size(size)}" for row in large),
        *(f"{row['name']}: {row['restarts_24h']} restarts in 24 h > {restarts}" for row in often),
    ]
