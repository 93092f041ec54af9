"""What makes a running task due for a restart: memory, descriptors, age, heartbeat, load."""

import contextlib
import os
import time

from upkeep import family, proc, units
from upkeep.settings import HostSettings, TaskSettings
from upkeep.task import Task

_CLOCK_STEP_SECONDS = 30.0
_Seen = dict[str, float]


def exceeded(task: Task, stat: proc.Stat, table: dict[int, proc.Stat]) -> tuple[str, str] | None:
    """("limit" or "heartbeat", which one and by how much), or None.

    Limits that need several samples in a row are counted in the task's record, in memory.
    """
    settings, seen = task.settings, task.record.over
    age = proc.age_seconds(stat)
    if settings.max_age is not None and age > settings.max_age:
        return "limit", f"age {_span(age)} > {_span(settings.max_age)}"
    for name, reading in (("rss", _memory(task, table)), ("fds", _descriptors(task, table))):
        seen[name] = seen.get(name, 0) + 1 if reading else 0
        if reading and seen[name] >= settings.max_rss_samples:
            return "limit", f"{reading} for {settings.max_rss_samples} samples"
    late = _heartbeat(task, age)
    return ("heartbeat", late) if late else None


def _span(seconds: float) -> str:
    return units.format_duration(seconds)


def _memory(task: Task, table: dict[int, proc.Stat]) -> str | None:
    """Memory over max_rss: where the sum of the RSS is, the PSS (shared pages once) decides."""
    limit = task.settings.max_rss
    if limit is None:
        return None
    members = task.family().members(table, sweep=False)
    rss = family.total_rss(members)
    if rss <= limit:
        return None
    shares = [_pss(stat) for stat in members] if len(members) > 1 else [rss]
    if sum(shares) <= limit:
        return None
    kind = "RSS" if len(members) == 1 else f"PSS of {len(members)} processes"
    return f"{kind} {units.format_size(sum(shares))} > {units.format_size(limit)}"


def _pss(stat: proc.Stat) -> int:
    for line in proc.read_file(f"/proc/{stat.pid}/smaps_rollup").splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return stat.rss_bytes


def _descriptors(task: Task, table: dict[int, proc.Stat]) -> str | None:
    limit = task.settings.max_fds
    if limit is None:
        return None
    members = task.family().members(table, sweep=False)
    most = max((proc.count_fds(stat.pid) or 0 for stat in members), default=0)
    return f"{most} open descriptors > {limit}" if most > limit else None


def _heartbeat(task: Task, age: float) -> str | None:
    """A heartbeat that is late, counted from the start of the copy at the earliest.

    The clock may have been stepped since the file was touched: then it must look stale for as
    long as a beat may take, so that a working program gets the chance to touch it.
    """
    file, most = task.settings.heartbeat, task.settings.heartbeat_max_age
    if file is None:
        return None
    silence, ahead = age, False
    with contextlib.suppress(OSError):
        since_beat = time.time() - file.stat().st_mtime
        ahead = since_beat < -1
        silence = age if ahead else min(age, since_beat)
    if silence <= most:
        task.record.over.pop("stale_since", None)
        return None
    known, uptime = task.record, proc.uptime()
    step = (time.time() - uptime) - (known.started_at - known.started_uptime)
    if ahead or (known.started_at and abs(step) > _CLOCK_STEP_SECONDS):
        first = known.over.setdefault("stale_since", round(uptime, 1))
        if uptime - first <= most:
            return None
    return f"heartbeat {file} is silent for {_span(silence)} > {_span(most)}"


def not_quiet(task: TaskSettings, host: HostSettings) -> str | None:
    """Why the host is not quiet: the load of the last minute per core; None when it is."""
    most = host.quiet_load if task.quiet_load is None else task.quiet_load
    load = float(proc.read_file("/proc/loadavg").split()[0]) / (os.cpu_count() or 1)
    return f"load {load:.2f} per core > {most:g}" if load > most else None
