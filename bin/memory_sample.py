#!/usr/bin/env python3
"""Take one reading of this host's memory and its programs: for history, alerts and Prometheus.

usage: memory_sample.py [--dry-run] [--json] [--proc-root DIR]

Run it every five minutes. With --dry-run or -v it prints what it compared:

    over: memory 91.3% of 2.0 GiB in use, limit 80%
    disk / 22.3% of 40 GiB in use, limit 90%

exit codes: 0 done, also over a limit; 1 something could not be read or written; 2 usage or
configuration; 4 another run is at it.
"""

import collections
import contextlib
import math
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, leak, levels, memory, metrics, samples
from upkeep.alerts import Alerts
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.levels import Level
from upkeep.samples import Reading, Row

EXAMPLES = """  memory_sample.py            # what cron runs every five minutes
  memory_sample.py --dry-run  # what is compared with which limit?"""
HOUR, DAY = 3600.0, 86400.0


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_dry_run(made)
    cli.add_json(made)
    made.add_argument("--proc-root", metavar="DIR", default="/proc", help="read DIR, not /proc")
    return made


def tell(alerts: Alerts, seen: Iterable[Level], counts: dict[str, int], forgetful: bool) -> None:
    """Open and close the episodes that are due; if counts can't be kept, one sample will do."""
    for level in seen:
        if counts[level.key] >= (1 if forgetful else level.in_a_row):
            alerts.problem(level.key, level.text, f"{level.in_a_row} samples in a row")
        elif counts[level.key] == -level.in_a_row:
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


def figures(now: Reading, state: Row) -> metrics.Figures:
    """What Prometheus may know. No PID and no command line becomes a label."""
    made: metrics.Figures = collections.defaultdict(dict)
    for name in ("limit_bytes", "available_bytes"):
        made[f"upkeep_memory_{name}"]["", ""] = now.host[name]
    if now.host["oom_kills"] is not None:
        made["upkeep_oom_kills_total"]["", ""] = now.host["oom_kills"]
    made["upkeep_last_success_timestamp_seconds"]["script", "memory_sample"] = now.time
    for path, (size,) in state["directories"].items():
        made["upkeep_directory_size_bytes"]["path", path] = size
    for each in now.programs[: samples.MOST_PROGRAMS]:
        verdict, growth, *_ = state["leaks"].get(each.name, ("", 0.0))
        for name, value in (
            ("es", len(each.pids)),
            ("_resident_memory_bytes", each.rss_bytes),
            ("_proportional_memory_bytes", each.pss_bytes),
            ("_open_fds", each.fds),
            ("_memory_growth_bytes_per_second", (growth or 0.0) / DAY),
            ("_leak_suspected", verdict == "leak"),
        ):
            if value is not None:
                made[f"upkeep_process{name}"]["group", each.name] = value
    return made


def is_ours(state: Row) -> bool:
    """Whether `state` is whole and of this script: what the last sample left for this one."""
    kinds: dict[str, Any] = {"boot_id": str, "uptime": (int, float), "measured_at": (int, float)}
    tables = ("counts", "leaks", "directories")
    return (
        state.get("written_by") == "memory_sample"
        and all(isinstance(state.get(name), kind) for name, kind in kinds.items())
        and all(isinstance(state.get(name), dict) for name in tables)
        and all(isinstance(count, int) for count in state["counts"].values())
        and isinstance(state.get("oom_kills"), (int, type(None)))
    )


def attempt(action: Callable[[], object]) -> int:
    """Read or write; what cannot be done is a warning. Returns the exit status."""
    try:
        action()
    except OSError as error:
        cli.warn(f"{error.filename or 'the state directory'}: {error.strerror}")
        return Exit.PROBLEM
    return Exit.DONE


def sample(settings: Config, now: Reading, alerts: Alerts | None) -> tuple[Row, list[Level], int]:
    """Compare, alert and store; without `alerts` only compare."""
    row, state, file = now.row, Row(), settings.state / "memory" / "state.json"
    status = attempt(lambda: state.update(files.read_state(file, is_ours)))
    leaks: leak.Verdicts = {}
    if not 0 <= now.time - state.get("measured_at", -HOUR) < HOUR:
        past, _skipped = samples.read(settings.state, leak.WINDOW_SECONDS, now.time)
        leaks = leak.judge_all(settings, samples.series(past), now.limits, now.time, math.inf)
        row["dirs"] = memory.directory_sizes(settings.host.data_dirs)
        state |= {"measured_at": now.time, "leaks": leaks, "directories": row["dirs"]}
    seen = list(levels.compare(settings, now, leaks, 7 * DAY))
    if alerts is None:
        return row, seen, status
    counts = levels.count_on(state.get("counts", {}), seen)
    keys = {level.key for level in seen} | (set() if leaks else counts.keys())
    state["counts"] = {key: count for key, count in counts.items() if key in keys}
    last, state = state, state | {name: row[name] for name in ("boot_id", "uptime", "oom_kills")}
    state["written_by"] = "memory_sample"
    forgotten = attempt(lambda: files.write_state(file, state))
    tell(alerts, seen, counts, bool(forgotten))
    tell_kills(alerts, row, last)
    status |= forgotten | attempt(lambda: samples.append(settings.state, row))
    if settings.prometheus:
        path = settings.prometheus / "upkeep_memory.prom"
        status |= attempt(lambda: metrics.write(path, figures(now, state)))
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
        now = samples.take(settings, options.proc_root, samples.MOST_PROGRAMS)
        row, seen, status = sample(settings, now, alerts)
    if options.json:
        cli.print_json(row | {"over": [level.text for level in seen if level.over]})
    elif options.dry_run or options.verbose or sys.stdout.isatty():
        print("\n".join(("over: " if level.over else "") + level.text for level in seen))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
