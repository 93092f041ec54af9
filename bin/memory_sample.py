#!/usr/bin/env python3
"""Take one reading of this host's memory and of its programs, for the history and the alerts.

usage: memory_sample.py [--dry-run] [--json] [--proc-root DIR]

Run it every five minutes. It alerts once when the memory or a disk stays over its level, when a
task stays over its max_rss, when a leak reaches the limit within a week, and for every kill by
the kernel's out-of-memory killer; and once when it is over. A terminal or -v shows:

    {sample}

exit codes: 0 done, also over a level; 1 something could not be read or written; 2 usage or
configuration; 4 another run is at it.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, leak, memory, metrics, programs, samples
from upkeep.alerts import Alerts
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.units import format_duration, format_size

EXAMPLES = """  memory_sample.py            # what cron runs every five minutes
  memory_sample.py --dry-run  # what would be stored, and which levels are passed?"""

DETAILED = 30  # the largest programs, of which PSS and descriptors are read
HOUR, WEEK = 3600.0, 7 * 86400.0
CLEAR_BELOW = 0.05  # a disk is well again this far below its level


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


def levels(settings: Config, reading: Reading, leaks: dict[str, leak.Verdict]) -> Iterator[Level]:
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
    for name, found in leaks.items():
        left = found.time_to_limit_seconds
        over = found.verdict == "leak" and left is not None and left < WEEK
        yield Level(f"leak:{name}", f"{name}: {leak.describe(found)}", over, not over, 2)


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


def fresh_oom_kills(host: Host, before: Row) -> int:
    """Kills by the kernel since the last sample; `before` is the state that one left behind."""
    if host.oom_kills is None or before.get("oom_kills") is None:
        return 0  # not counted by this kernel, or never looked at before
    same_boot = before["boot_id"] == host.boot_id
    return max(0, host.oom_kills - (before["oom_kills"] if same_boot else 0))


def judge_all(settings: Config, reading: Reading) -> dict[str, leak.Verdict]:
    """The verdict on every program that runs now."""
    rows, _skipped = samples.read(settings.state, leak.WINDOW_SECONDS, reading.time)
    limits = leak.limits(settings, reading)
    return {
        name: leak.judge(points, limits[name], reading.time)
        for name, points in samples.series(rows).items()
        if name in limits
    }


def families(reading: Reading, leaks: dict[str, leak.Verdict]) -> list[metrics.Family]:
    """The figures for Prometheus. No PID and no command line becomes a label."""
    kept, host = reading.kept, reading.host
    def of_groups(name: str, doc: str, values: Iterable[float | None]) -> metrics.Family:
        found = [({"group": each.name}, value) for each, value in zip(kept, values, strict=True)]
        return name, "gauge", doc, [(labels, value) for labels, value in found if value is not None]

    verdicts = [leaks.get(each.name, leak.Verdict("too_short")) for each in kept]
    grown = [each.growth_bytes_per_day for each in verdicts]
    slopes = [None if each is None else each / 86400 for each in grown]
    paths = [({"path": path}, float(size)) for path, size in reading.directories.items()]
    kills = [] if host.oom_kills is None else [({}, float(host.oom_kills))]
    head = "upkeep_process"
    return [
        ("upkeep_memory_limit_bytes", "gauge", "RAM or control group limit.", [({}, host.limit_bytes)]),
        ("upkeep_memory_available_bytes", "gauge", "What programs may still get.", [({}, host.available_bytes)]),
        ("upkeep_oom_kills_total", "counter", "Kills by the kernel since boot.", kills),
        ("upkeep_directory_size_bytes", "gauge", "Size of a data directory.", paths),
        ("upkeep_last_success_timestamp_seconds", "gauge", "When the script last did its work.",
         [({"script": "memory_sample"}, reading.time)]),
        of_groups(f"{head}es", "Processes of the program.", [len(each.pids) for each in kept]),
        of_groups(f"{head}_resident_memory_bytes", "RSS.", [each.rss_bytes for each in kept]),
        of_groups(f"{head}_proportional_memory_bytes", "PSS.", [each.pss_bytes for each in kept]),
        of_groups(f"{head}_open_fds", "Descriptors.", [each.fds for each in kept]),
        of_groups(f"{head}_memory_growth_bytes_per_second", "Trend.", slopes),
        of_groups(f"{head}_leak_suspected", "1 for a leak.", [each.verdict == "leak" for each in verdicts]),
    ]


def store(settings: Config, reading: Reading, leaks: dict[str, leak.Verdict], state: Row) -> int:
    """Write history, state and metrics. What cannot be written is a warning; returns the status."""
    status = Exit.DONE
    file = settings.prometheus and settings.prometheus / "upkeep_memory.prom"
    for write in (
        lambda: samples.append(settings.state, reading.line()),
        lambda: files.write_state(settings.state / STATE, state),
        lambda: metrics.write(file, families(reading, leaks)) if file else None,
    ):
        try:
            write()
        except OSError as error:
            cli.warn(f"{error.filename}: cannot be written: {error.strerror}")
            status = Exit.PROBLEM
    return status


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Take one sample. Returns the exit status."""
    options = parser().parse_args(argv)
    settings, now = config.load(options.config), time.time()
    reading = samples.take(settings, options.proc_root, now, DETAILED)
    state = files.read_state(settings.state / STATE)
    leaks = {}
    ...


if __name__ == "__main__":
    raise SystemExit(main())
