"""What makes a running task due for a restart: memory, descriptors, age, a silent heartbeat."""

import contextlib
import os
import time

from upkeep import history, proc, units
from upkeep.family import Processes
from upkeep.settings import HostSettings, TaskSettings
from upkeep.task import Task

_CLOCK_STEP_SECONDS = 30.0
_span = units.format_duration


def exceeded(
    task: Task, settings: TaskSettings, stat: proc.Stat, processes: Processes
) -> tuple[str, str] | None:
    """("limit" or "heartbeat", which of `settings` and by how much), or None.

    Samples in a row are counted in the task's record, in memory. After a step of the clock every
    heartbeat looks silent: a second look gives a working program the time to touch its file.
    """
    limited = settings.max_rss is not None or settings.max_fds is not None
    members = task.family().members(processes) if limited else []
    age, samples, counts = proc.age_seconds(stat), settings.max_rss_samples, task.record.over
    for name, reading, needed in (
        ("age", _too_old(age, settings.max_age), 1),
        ("rss", _memory(members, settings.max_rss), samples),
        ("fds", _descriptors(members, settings.max_fds), samples),
        ("heartbeat", _silence(settings, age), _looks_needed(task)),
    ):
        if not reading:
            counts.pop(name, None)  # a healthy task's record does not change
            continue
        counts[name] = counts.get(name, 0) + 1
        if counts[name] >= needed:
            kind = "heartbeat" if name == "heartbeat" else "limit"
            return kind, f"{reading} for {needed} samples" if needed > 1 else reading
    return None


def _looks_needed(task: Task) -> int:
    """How often a heartbeat must look silent: twice where the wall clock and the time since boot
    went apart since the start of the task."""
    if not task.settings.heartbeat:
        return 1
    began = task.record.started or history.stamp(time.time())
    step = (time.time() - proc.uptime()) - (began["time"] - began["uptime"])
    return 2 if abs(step) > _CLOCK_STEP_SECONDS else 1


def _too_old(age: float, most: float | None) -> str | None:
    return None if most is None or age <= most else f"age {_span(age)} > {_span(most)}"


def _memory(members: list[proc.Stat], most: int | None) -> str | None:
    """When the sum of the RSS is over, the PSS (which counts shared pages once) decides."""
    rss = sum(stat.rss_bytes for stat in members)
    if most is None or rss <= most:
        return None
    pss = sum(proc.pss_bytes(stat.pid) or stat.rss_bytes for stat in members)
    if pss <= most:
        return None
    sizes = f"RSS {units.format_size(rss)}, PSS {units.format_size(pss)}"
    return f"{sizes} > {units.format_size(most)}"


def _descriptors(members: list[proc.Stat], most: int | None) -> str | None:
    largest = max((proc.count_fds(stat.pid) or 0 for stat in members if most), default=0)
    return f"{largest} open descriptors > {most}" if most and largest > most else None


def _silence(task: TaskSettings, age: float) -> str | None:
    """A heartbeat that is late, or far in the future; it is counted from the start on."""
    with contextlib.suppress(OSError):
        if task.heartbeat:
            age = min(age, abs(time.time() - task.heartbeat.stat().st_mtime))
    late = task.heartbeat and age > task.heartbeat_max_age
    return f"heartbeat silent for {_span(age)} > {_span(task.heartbeat_max_age)}" if late else None


def leaking(task: Task, within: float | None = None) -> str | None:
    """What its trend says if it leaks, or reaches its limit `within` seconds; else None."""
    from upkeep import leak, samples

    now = time.time()
    rows, _skipped = samples.read(task.config.state, leak.WINDOW_SECONDS, now)
    points = samples.series(rows).get(task.name, [])
    if not points or points[-1].pid != task.record.pid:
        return None  # the trend is that of an earlier copy
    found = leak.judge(points, task.settings.max_rss, now)
    left = found.time_to_limit_seconds
    soon = within is not None and left is not None and left <= within
    return leak.describe(found) if soon or (within is None and found.verdict == "leak") else None


def nearing(task: Task) -> str | None:
    """Why it is restarted before it reaches its limit (restart_before_limit), while the host is
    quiet; the trend is looked at once an hour."""
    within = task.settings.restart_before_limit
    if within is None:
        return None
    hour = int(proc.uptime() // 3600)
    if task.record.over.get("hour") == hour or not_quiet(task.settings, task.config.host):
        return None
    task.record.over["hour"] = hour
    return leaking(task, within)


def not_quiet(task: TaskSettings, host: HostSettings) -> str | None:
    """Why the host is not quiet: the load of the last minute per core; None when it is."""
    most = host.quiet_load if task.quiet_load is None else task.quiet_load
    load = float(proc.read_file("/proc/loadavg").split()[0]) / (os.cpu_count() or 1)
    return f"load {load:.2f} per core, not below {most:g}" if load >= most else None
