#!/usr/bin/env python3
"""Take one reading of this host's memory and its programs: for history, alerts and Prometheus.

usage: memory_sample.py [--dry-run] [--json] [--proc-root DIR]

Run it every five minutes. With --dry-run or -v it prints what it compared:

    over: memory 91.3% of 2.0 GiB in use, limit 80%
    disk / 22.3% in use, limit 90%

exit codes: 0 done, also over a limit; 1 something could not be read or written; 2 usage or
configuration; 4 another run is at it.
"""

import collections
import contextlib
import re
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, leak, memory, metrics, programs, samples
from upkeep.alerts import Alerts
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.programs import Program
from upkeep.samples import Row
from upkeep.units import format_size

EXAMPLES = """  memory_sample.py            # what cron runs every five minutes
  memory_sample.py --dry-run  # what is compared with which limit?"""

HOUR, DAY = 3600.0, 86400.0
CLEAR_BELOW = 0.05  # a disk is well again this far below its limit
MOST_PROGRAMS = 25  # are sampled: the tasks, then the largest


class Level(NamedTuple):
    """One comparison with a limit; what is neither over nor clear lies between."""

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


def levels(settings: Config, row: Row, found: Iterable[Program], leaks: Row) -> Iterator[Level]:
    """Everything that has a limit."""
    host, share = settings.host, row["used"] / row["limit"]
    text = (
        f"memory {share:.1%} of {format_size(row['limit'])} in use, limit {host.memory_alert:.0%}"
    )
    over, clear = share > host.memory_alert, share < host.memory_clear
    yield Level("host:memory", text, over, clear, host.samples)
    for path, (used, free) in row["disks"].items():
        share = used / max(1, used + free)
        over, clear = share > host.disk_alert, share < host.disk_alert - CLEAR_BELOW
        text = f"disk {path} {share:.1%} in use, limit {host.disk_alert:.0%}"
        yield Level(f"disk:{path}", text, over, clear, host.samples)
    for each in found:
        task = settings.tasks.get(each.name)
        if task and task.max_rss:
            used = each.pss_bytes or each.rss_bytes
            text = f"{each.name} {format_size(used)} in use, limit {format_size(task.max_rss)}"
            over = used > task.max_rss
            yield Level(f"task:{each.name}:memory", text, over, not over, task.max_rss_samples)
    for name, verdict in leaks.items():
        left = verdict["time_to_limit_seconds"]
        over = verdict["verdict"] == "leak" and left is not None and left < 7 * DAY
        yield Level(f"leak:{name}", f"{name}: {leak.describe(verdict)}", over, not over, 2)


def count_on(counts: dict[str, int], found: Iterable[Level]) -> dict[str, int]:
    """How many samples in a row every level has been over (positive) or clear (negative)."""
    fresh = dict(counts)
    for level in found:
        before = counts.get(level.key, 0)
        up, down = max(0, before) + 1, min(0, before) - 1
        fresh[level.key] = up if level.over else down if level.clear else 0
    return fresh


def tell(alerts: Alerts, found: Iterable[Level], counts: dict[str, int]) -> None:
    """Open and close the episodes that are due."""
    for level in found:
        if counts[level.key] >= level.in_a_row:
            alerts.problem(level.key, level.text, f"{level.in_a_row} samples in a row")
        elif counts[level.key] <= -level.in_a_row:
            alerts.recovered(level.key, level.text)


def tell_kills(alerts: Alerts, row: Row, state: Row) -> None:
    """Report what the kernel killed for want of memory since the sample that left `state`."""
    if row["oom_kills"] is None or state.get("oom_kills") is None:
        return  # not counted by this kernel, or never looked at before
    kills = row["oom_kills"] - (state["oom_kills"] if state["boot_id"] == row["boot_id"] else 0)
    if kills > 0:
        from upkeep import death

        lines = [line for when, line in death.kernel_log() or [] if when >= state["uptime"]]
        names = re.findall(r"Killed process \d+ \(.*?\)", "\n".join(lines))
        title = f"out of memory: the kernel killed {kills} process(es)"
        alerts.inform(title, "\n".join(names) or "which one is not known", level="critical")


def figures(row: Row, found: Iterable[Program], state: Row) -> metrics.Figures:
    """What Prometheus may know. No PID and no command line becomes a label."""
    one = ("", "")
    made: metrics.Figures = collections.defaultdict(dict)
    made["upkeep_memory_limit_bytes"] = {one: row["limit"]}
    made["upkeep_memory_available_bytes"] = {one: row["limit"] - row["used"]}
    made["upkeep_last_success_timestamp_seconds"] = {("script", "memory_sample"): row["time"]}
    if row["oom_kills"] is not None:
        made["upkeep_oom_kills_total"] = {one: row["oom_kills"]}
    for path, size in state["directories"].items():
        made["upkeep_directory_size_bytes"]["path", path] = size
    for each in found:
        verdict = state["leaks"].get(each.name, {})
        for name, value in (
            ("es", len(each.pids)),
            ("_resident_memory_bytes", each.rss_bytes),
            ("_proportional_memory_bytes", each.pss_bytes),
            ("_open_fds", each.fds),
            ("_memory_growth_bytes_per_second", (verdict.get("growth_bytes_per_day") or 0) / DAY),
            ("_leak_suspected", verdict.get("verdict") == "leak"),
        ):
            if value is not None:
                made[f"upkeep_process{name}"]["group", each.name] = value
    return made


def measure(settings: Config, row: Row, found: Iterable[Program], available: int) -> Row:
    """What is done once an hour: directories are measured, and the trend of programs is judged."""
    past, _skipped = samples.read(settings.state, leak.WINDOW_SECONDS, row["time"])
    series, limits = samples.series(past), leak.limits(settings, found, available)
    leaks = {
        name: leak.judge(series[name], limit, row["time"])._asdict()
        for name, limit in limits.items()
        if name in series
    }
    sizes = memory.directory_sizes(settings.host.data_dirs)
    return {"measured_at": row["time"], "leaks": leaks, "directories": sizes}


def attempt(action: Callable[[], object]) -> int:
    """Read or write; what cannot be done is a warning. Returns the exit status."""
    try:
        action()
    except OSError as error:
        cli.warn(f"{error.filename}: {error.strerror}")
        return Exit.PROBLEM
    return Exit.DONE


def sample(settings: Config, root: str, alerts: Alerts | None) -> tuple[Row, list[Level], int]:
    """Read, compare, alert and store; without `alerts` only read and compare."""
    host, state = memory.read_host(root), Row()
    found = programs.collect(root, settings, host["boot_id"])
    found = sorted(found, key=lambda each: each.name not in settings.tasks)[:MOST_PROGRAMS]
    programs.read_details(found, root)
    row = samples.line(time.time(), host, memory.read_disks(settings.host.disks), found)
    file = settings.state / "memory" / "state.json"
    status = attempt(lambda: state.update(files.read_state(file)))
    fresh = Row()
    if not 0 <= row["time"] - state.get("measured_at", -HOUR) < HOUR:
        fresh = measure(settings, row, found, host["available_bytes"])
        row["dirs"] = fresh["directories"]
    seen = list(levels(settings, row, found, fresh.get("leaks", {})))
    if alerts is None:
        return row, seen, status
    counts = count_on(state.get("counts", {}), seen)
    tell(alerts, seen, counts)
    tell_kills(alerts, row, state)
    state |= fresh | {name: row[name] for name in ("boot_id", "uptime", "oom_kills")}
    status |= attempt(lambda: samples.append(settings.state, row))
    status |= attempt(lambda: files.write_state(file, state | {"counts": counts}))
    if settings.prometheus:
        path, made = settings.prometheus / "upkeep_memory.prom", figures(row, found, state)
        status |= attempt(lambda: metrics.write(path, made))
    return row, seen, status


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Take one sample. Returns the exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    with contextlib.ExitStack() as stack:
        alerts = None if options.dry_run else stack.enter_context(Alerts(settings))
        if alerts:
            attempt(lambda: stack.enter_context(files.lock(settings.state / "lock/memory.lock")))
        row, seen, status = sample(settings, options.proc_root, alerts)
    if options.json:
        cli.print_json(row | {"over": [level.text for level in seen if level.over]})
    elif options.dry_run or options.verbose or sys.stdout.isatty():
        print("\n".join(("over: " if level.over else "") + level.text for level in seen))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
