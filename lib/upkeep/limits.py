"""What makes a running task due for a restart: memory, descriptors, age, a silent heartbeat."""

import contextlib
import os
import time

from upkeep import family, proc, units
from upkeep.settings import HostSettings, TaskSettings
from upkeep.task import Task

_CLOCK_STEP_SECONDS = 30.0


def exceeded(task: Task, stat: proc.Stat, table: dict[int, proc.Stat]) -> tuple[str, str] | None:
    """("limit" or "heartbeat", which one and by how much), or None.

    Samples in a row are counted in the task's record, in memory. After a step of the clock every
    heartbeat looks silent: a second look gives a working program the time to touch its file.
    """
    settings, known = task.settings, task.record
    age = proc.age_seconds(stat)
    if settings.max_age is not None and age > settings.max_age:
        return "limit", f"age {_span(age)} > {_span(settings.max_age)}"
    limited = settings.max_rss is not None or settings.max_fds is not None
    members = task.family().members(table, sweep=False) if limited else []
    began = known.started or {"time": 0.0, "uptime": 0.0}
    step = (time.time() - proc.uptime()) - (began["time"] - began["uptime"])
    stepped = known.started and abs(step) > _CLOCK_STEP_SECONDS
    for name, reading, needed in (
        ("memory", _memory(task, members), settings.max_rss_samples),
        ("fds", _descriptors(task, members), settings.max_rss_samples),
        ("heartbeat", _heartbeat(settings, age), 2 if stepped else 1),
    ):
        known.over[name] = known.over.get(name, 0) + 1 if reading else 0
        if reading and known.over[name] >= needed:
            kind = "heartbeat" if name == "heartbeat" else "limit"
            return kind, f"{reading} for {needed} samples" if needed > 1 else reading
    return None


def _span(seconds: float) -> str:
    return units.format_duration(seconds)


def _memory(task: Task, members: list[proc.Stat]) -> str | None:
    """Memory over max_rss: when the sum of the RSS is, the PSS (shared pages once) decides."""
    limit, size, kind = task.settings.max_rss, family.total_rss(members), "RSS"
    if limit is not None and size > limit and len(members) > 1:
        size, kind = sum(map(_pss, members)), f"PSS of {len(members)} processes"
    over = limit is not None and size > limit
    return f"{kind} {units.format_size(size)} > {units.format_size(limit or 0)}" if over else None


def _pss(stat: proc.Stat) -> int:
    for line in proc.read_file(f"/proc/{stat.pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return stat.rss_bytes


def _descriptors(task: Task, members: list[proc.Stat]) -> str | None:
    limit = task.settings.max_fds
    if limit is None:
        return None
    most = max((proc.count_fds(stat.pid) or 0 for stat in members), default=0)
    return f"{most} open descriptors > {limit}" if most > limit else None


def _heartbeat(task: TaskSettings, age: float) -> str | None:
    """A heartbeat that is late, or far in the future; it is counted from the start on."""
    if task.heartbeat is None:
        return None
    with contextlib.suppress(OSError):
        age = min(age, abs(time.time() - task.heartbeat.stat().st_mtime))
    late = age > task.heartbeat_max_age
    shown = f"heartbeat silent for {_span(age)} > {_span(task.heartbeat_max_age)}"
    return shown if late else None


def not_quiet(task: TaskSettings, host: HostSettings) -> str | None:
    """Why the host is not quiet: the load of the last minute per core; None when it is."""
    most = host.quiet_load if task.quiet_load is None else task.quiet_load
    load = float(proc.read_file("/proc/loadavg").split()[0]) / (os.cpu_count() or 1)
    return f"load {load:.2f} per core > {most:g}" if load > most else None
