#!/usr/bin/env python3
"""Show the tasks in one table: who runs, since when, how large, how often restarted and why.

usage: status.py [NAME ...] [--json]

    $ status.py
    TASK    STATE    PID  UPTIME      MEMORY  CPU  24H  ALL  LAST
    trader  running  812  3 h 20 min  84 MiB  1 %    1   12  2026-02-13T03:00:01+09:00 by hand

CPU is the mean since the start. Restarts are those of the last 24 hours, and all starts on record.

Exit codes: 0 all is as wanted; 1 something is dead, failing or unknown; 2 usage or configuration;
7 something was given up.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, family, history, proc, task, text, units
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.task import Task

EXAMPLES = """  status.py                # how are my programs?
  status.py --json | jq '.results[] | select(.state != "running")'"""

DAY = 86400.0
COLOURS = {"running": 32, "stopped": 90, "dead": 31, "failing": 33, "given_up": 31, "unknown": 35}
Row = dict[str, Any]


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_json(made)
    made.add_argument("names", nargs="*", metavar="NAME", help="only these tasks")
    return made


def state_of(known: Task, alive: bool) -> str:
    """The state in one word."""
    if alive:
        return "failing" if known.record.unready else "running"
    if known.record.down:
        return "stopped"
    if known.given_up:
        return "given_up"
    return "failing" if known.record.trouble else "dead"


def row(known: Task, table: dict[int, proc.Stat], events: list[history.Event]) -> Row:
    """One task as it stands in the JSON document."""
    mine = [event for event in events if event.get("task") == known.name]
    last = next((each for each in reversed(mine) if each["event"] in ("start", "restart")), {})
    found: Row = {
        "task": known.name,
        "restarts_24h": history.count_restarts(mine, known.name),
        "restarts": known.record.counts,
        "last_restart": last.get("time"),
        "last_reason": last.get("reason"),
    }
    try:
        alive = known.running()
    except OperatorError as error:
        return {**found, "state": "unknown", "detail": str(error)}
    found["state"] = state_of(known, alive is not None)
    stat = table.get(alive.pid) if alive else None
    if stat:
        members = known.family().members(table, sweep=False)
        age = proc.age_seconds(stat)
        cpu = sum(each.cpu_ticks for each in members) / proc.TICKS_PER_SECOND
        found["pid"], found["uptime_seconds"] = stat.pid, round(age, 1)
        found["rss_bytes"] = family.total_rss(members)
        found["processes"], found["cpu_percent"] = len(members), round(100 * cpu / max(age, 0.1), 1)
    if known.name not in known.config.tasks:
        found["detail"] = f"no longer in upkeep.toml; stop.py {known.name} ends it"
    return found


def rows(settings: Config, names: Sequence[str]) -> list[Row]:
    """All rows; without `names` also tasks that left upkeep.toml and still run."""
    table, uptime = proc.scan(), proc.uptime()
    events = history.since(settings.state, DAY, time.time(), uptime, proc.boot_id())
    found = [row(task.load(settings, name), table, events) for name in names or settings.tasks]
    taken = {each.get("pid") for each in found}
    strangers = [] if names else set(task.recorded_names(settings)) - set(settings.tasks)
    left = [row(task.load(settings, name), table, events) for name in sorted(strangers)]
    return found + [each for each in left if each.get("pid") and each["pid"] not in taken]


def cells(found: Row) -> list[str]:
    """The cells of one line of the table."""
    running = "pid" in found
    last = found["last_restart"]
    return [
        found["task"],
        found["state"],
        str(found["pid"]) if running else "-",
        units.format_duration(found["uptime_seconds"]) if running else "-",
        units.format_size(found["rss_bytes"]) if running else "-",
        f"{found['cpu_percent']:.0f} %" if running else "-",
        str(found["restarts_24h"]),
        str(sum(found["restarts"].values())),
        found.get("detail") or (f"{units.local_time(last)} {found['last_reason']}" if last else ""),
    ]


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    found = rows(settings, cli.chosen_tasks(settings, options.names))
    if options.json:
        cli.print_json({"results": found})
    else:
        header = ("TASK", "STATE", "PID", "UPTIME", "MEMORY", "CPU", "24H", "ALL", "LAST")
        lines = text.table(header, [cells(each) for each in found], "<<>>>>>>")
        print(lines[0])
        for line, each in zip(lines[1:], found, strict=True):
            print(cli.colour(line, COLOURS[each["state"]]))
    states = {each["state"] for each in found}
    if "given_up" in states:
        return Exit.GIVEN_UP
    return Exit.PROBLEM if states & {"dead", "failing", "unknown"} else Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
