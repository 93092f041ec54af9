#!/usr/bin/env python3
"""Take one reading of this host's memory and its programs: for the history, alerts and Prometheus.

usage: memory_sample.py [--dry-run] [--json] [--proc-root DIR]

Run it every five minutes. It alerts once, and once when it is over: when the memory or a disk
stays over its level, when a task stays over its max_rss, when a leak reaches the limit within a
week. Every kill by the kernel's out-of-memory killer is reported. With --dry-run:

    memory 2.1% of 24 GiB in use, limit 80%
    disk / 22.3% in use, limit 90%

exit codes: 0 done, also over a level; 1 something could not be read or written; 2 usage or
configuration; 4 another run is at it.
"""

import contextlib
import re
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, leak, memory, metrics, samples
from upkeep.alerts import Alerts
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.samples import Reading, Row
from upkeep.units import format_size

EXAMPLES = """  memory_sample.py            # what cron runs every five minutes
  memory_sample.py --dry-run  # what would be stored, and which levels are passed?"""

DETAILED = 30  # the largest programs, of which PSS and descriptors are read
HOUR, DAY = 3600.0, 86400.0
CLEAR_BELOW = 0.05  # a disk is well again this far below its level

Leaks = dict[str, leak.Verdict]


class Level(NamedTuple):
    """One thing that was compared with its limit; what is neither over nor clear lies between."""

    key: str
    text: str
    over: bool
    clear: bool
    in_a_row: int


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("--proc-root", metavar="DIR", default="/proc", help="read DIR, not /proc")
    return made


def levels(settings: Config, reading: Reading, leaks: Leaks) -> Iterator[Level]:
    """Everything that has a limit, with its figure and the limit."""
    host, limits, count = reading.host, settings.host, settings.host.samples
    size, share = format_size(host.limit_bytes), host.used_share
    text = f"memory {share:.1%} of {size} in use, limit {limits.memory_alert:.0%}"
    over, clear = share > limits.memory_alert, share < limits.memory_clear
    yield Level("host:memory", text, over, clear, count)
    for path, (used, free) in reading.disks.items():
        share = used / max(1, used + free)
        text = f"disk {path} {share:.1%} in use, limit {limits.disk_alert:.0%}"
        over, clear = share > limits.disk_alert, share < limits.disk_alert - CLEAR_BELOW
        yield Level(f"disk:{path}", text, over, clear, count)
    for each in reading.programs:
        task = settings.tasks.get(each.name)
        if task and task.max_rss:
            used_bytes = each.pss_bytes or each.rss_bytes
            limit = format_size(task.max_rss)
            text = f"{each.name} {format_size(used_bytes)} in use, limit {limit}"
            over = used_bytes > task.max_rss
            yield Level(f"task:{each.name}:memory", text, over, not over, task.max_rss_samples)
    for name, found in leaks.items():
        left = found.time_to_limit_seconds
        over = found.verdict == "leak" and left is not None and left < 7 * DAY
        yield Level(f"leak:{name}", f"{name}: {leak.describe(found._asdict())}", over, not over, 2)


def count_on(counts: dict[str, int], found: Iterable[Level]) -> dict[str, int]:
    """How many samples in a row every level has been over (positive) or clear (negative)."""
    fresh = {}
    for level in found:
        before = counts.get(level.key, 0)
        if level.over:
            fresh[level.key] = min(level.in_a_row, max(0, before) + 1)
        else:
            fresh[level.key] = max(-level.in_a_row, min(0, before) - 1) if level.clear else 0
    return counts | fresh


def tell(alerts: Alerts, found: Iterable[Level], counts: dict[str, int]) -> None:
    """Open and close the episodes that are due."""
    for level in found:
        if counts[level.key] >= level.in_a_row:
            alerts.problem(level.key, level.text, f"{level.in_a_row} samples in a row")
        elif counts[level.key] <= -level.in_a_row:
            alerts.recovered(level.key, level.text)


def fresh_oom_kills(host: memory.Host, state: Row) -> int:
    """Kills by the kernel since the last sample, which left `state` behind."""
    if host.oom_kills is None or state.get("oom_kills") is None:
        return 0  # not counted by this kernel, or never looked at before
    same_boot = state["boot_id"] == host.boot_id
    return max(0, host.oom_kills - (state["oom_kills"] if same_boot else 0))


def victims(since: float) -> str:
    """Whom the kernel's log names since that uptime; not every kill is logged."""
    from upkeep import death

    lines = [line for when, line in death.kernel_log() or [] if when >= since]
    found = re.findall(r"Killed process (\d+) \((.*?)\)", "\n".join(lines))
    return ", ".join(f"{name} (pid {pid})" for pid, name in found) or "which one is not known"


def judge(settings: Config, reading: Reading) -> Leaks:
    """The verdict on every program that runs."""
    rows, _skipped = samples.read(settings.state, leak.WINDOW_SECONDS, reading.time)
    limits = leak.limits(settings, reading)
    return {
        name: leak.judge(points, limits[name], reading.time)
        for name, points in samples.series(rows).items()
        if name in limits
    }


def families(reading: Reading, directories: dict[str, int], leaks: Leaks) -> list[metrics.Family]:
    """The figures for Prometheus. No PID and no command line becomes a label."""
    host, process = reading.host, "upkeep_process"
    verdicts = [leaks.get(each.name, leak.Verdict("too_short")) for each in reading.kept]
    slopes = [(each.growth_bytes_per_day or 0) / DAY for each in verdicts]

    def by_name(values: Iterable[float | None]) -> metrics.Values:
        groups = [{"group": each.name} for each in reading.kept]
        pairs = zip(groups, values, strict=True)
        return [(group, value) for group, value in pairs if value is not None]

    gauges: dict[str, tuple[str, metrics.Values]] = {
        "upkeep_memory_limit_bytes": ("RAM or a lower cgroup limit.", [({}, host.limit_bytes)]),
        "upkeep_memory_available_bytes": ("Still to be had.", [({}, host.available_bytes)]),
        "upkeep_directory_size_bytes": (
            "Size on disk.",
            [({"path": path}, size) for path, size in directories.items()],
        ),
        "upkeep_last_success_timestamp_seconds": (
            "When the script last did its work.",
            [({"script": "memory_sample"}, reading.time)],
        ),
        f"{process}es": ("Processes.", by_name(len(each.pids) for each in reading.kept)),
        f"{process}_resident_memory_bytes": ("RSS.", by_name(e.rss_bytes for e in reading.kept)),
        f"{process}_proportional_memory_bytes": (
            "PSS.",
            by_name(e.pss_bytes for e in reading.kept),
        ),
        f"{process}_open_fds": ("Descriptors.", by_name(each.fds for each in reading.kept)),
        f"{process}_memory_growth_bytes_per_second": ("Slope of its floor.", by_name(slopes)),
        f"{process}_leak_suspected": (
            "1: it leaks.",
            by_name(e.verdict == "leak" for e in verdicts),
        ),
    }
    kills: metrics.Values = [({}, host.oom_kills)] if host.oom_kills is not None else []
    made = [(name, "gauge", doc, values) for name, (doc, values) in gauges.items()]
    return [*made, ("upkeep_oom_kills_total", "counter", "Kernel kills since boot.", kills)]


def attempt(action: Callable[[], object]) -> int:
    """Read or write; what cannot be done is a warning. Returns the exit status."""
    try:
        action()
    except OSError as error:
        cli.warn(f"{error.filename}: {error.strerror}")
        return Exit.PROBLEM
    return Exit.DONE


def sample(settings: Config, reading: Reading, alerts: Alerts | None) -> tuple[list[Level], int]:
    """Compare, alert and store; without `alerts` only compare. Returns levels and exit status."""
    file = settings.state / "memory" / "state.json"
    state: Row = {}
    status = attempt(lambda: state.update(files.read_state(file)))
    fresh: Leaks = {}
    if not 0 <= reading.time - state.get("measured_at", -HOUR) < HOUR:
        state["measured_at"] = reading.time
        state["directories"] = memory.directory_sizes(settings.host.data_dirs)
        reading.directories = state["directories"]
        fresh = judge(settings, reading)
        state["leaks"] = {name: list(each) for name, each in fresh.items()}
    found = list(levels(settings, reading, fresh))
    if alerts is None:
        return found, status
    state["counts"] = count_on(state.get("counts", {}), found)
    tell(alerts, found, state["counts"])
    kills = fresh_oom_kills(reading.host, state)
    if kills:
        title = f"out of memory: the kernel killed {kills} process(es)"
        alerts.inform(title, victims(state["uptime"]), level="critical")
    host = reading.host
    state |= {"boot_id": host.boot_id, "uptime": host.uptime_seconds, "oom_kills": host.oom_kills}
    status |= attempt(lambda: samples.append(settings.state, reading.line()))
    status |= attempt(lambda: files.write_state(file, state))
    if settings.prometheus:
        leaks = {name: leak.Verdict(*each) for name, each in state["leaks"].items()}
        made = families(reading, state["directories"], leaks)
        path = settings.prometheus / "upkeep_memory.prom"
        status |= attempt(lambda: metrics.write(path, made))
    return found, status


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Take one sample. Returns the exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    reading = samples.take(settings, options.proc_root, time.time(), DETAILED)
    with contextlib.ExitStack() as stack:
        alerts = None if options.dry_run else stack.enter_context(Alerts(settings))
        if alerts:
            attempt(lambda: stack.enter_context(files.lock(settings.state / "lock/memory.lock")))
        found, status = sample(settings, reading, alerts)
    if options.json:
        over = [level.text for level in found if level.over]
        cli.print_json({**reading.line(), "over": over})
    elif options.dry_run or options.verbose or sys.stdout.isatty():
        print("\n".join(("over: " if level.over else "") + level.text for level in found))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
