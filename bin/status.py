#!/usr/bin/env python3
"""Show the tasks in one table: who runs, since when, how large, how often restarted and why.

usage: status.py [NAME ...] [--json]

    $ status.py
    TASK    STATE    PID  UPTIME      MEMORY  CPU  24H  ALL  LAST
    trader  running  812  3 h 20 min  84 MiB  1 %    1   12  2026-02-13T03:00:01+09:00 by hand

CPU is the mean since the start; 24H are restarts, ALL are all starts on record.

Exit codes: 0 all is as wanted; 1 something is dead, failing or unknown; 2 usage or configuration;
7 something was given up.
"""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, history, proc, record, task, text, units
from upkeep.errors import Exit, OperatorError
from upkeep.family import Processes
from upkeep.task import Task

EXAMPLES = """  status.py                # how are my programs?
  status.py --json | jq '.results[] | select(.state != "running")'"""

COLOURS = {"running": 32, "stopped": 90, "failing": 33, "unknown": 35}
HEADER = ("TASK", "STATE", "PID", "UPTIME", "MEMORY", "CPU", "24H", "ALL", "LAST")
Row = dict[str, Any]


def state_of(known: Task, alive: bool) -> str:
    """The state in one word."""
    record = known.record
    if alive:
        return "failing" if record.unready else "running"
    if record.down or "given_up" in record.trouble:
        return "stopped" if record.down else "given_up"
    return "failing" if record.outage else "dead"


def row(known: Task, processes: Processes, events: list[history.Event]) -> Row:
    """One task as it stands in the JSON document."""
    starts = [each for each in events if each.get("task") == known.name and "new_pid" in each]
    last = starts[-1] if starts else {}
    found: Row = {"task": known.name, "state": "unknown", "restarts": known.record.counts}
    found["restarts_24h"] = history.count_restarts(events, known.name)
    found |= {"last_restart": last.get("time"), "last_reason": last.get("reason")}
    try:
        alive = known.running()
    except OperatorError as error:
        return {**found, "detail": str(error)}
    found["state"] = state_of(known, alive is not None)
    stat = processes.table.get(alive.pid) if alive else None
    if stat:
        members, age = known.family().members(processes), proc.age_seconds(stat)
        cpu_seconds = sum(each.cpu_ticks for each in members) / proc.TICKS_PER_SECOND
        found |= {"pid": stat.pid, "uptime_seconds": round(age, 1), "processes": len(members)}
        if stat.state in proc.FROZEN_STATES:
            found |= {"state": "failing", "detail": "frozen by a signal or a debugger"}
        found["rss_bytes"] = sum(each.rss_bytes for each in members)
        found["cpu_percent"] = round(100 * cpu_seconds / max(age, 0.1), 1)
    if known.name not in known.config.tasks:
        found["detail"] = f"no longer in upkeep.toml; stop.py {known.name} ends it"
    return found


def cells(found: Row) -> list[str]:
    """The cells of one line of the table."""
    figures, at, last = ["-"] * 4, found["last_restart"], found.get("detail", "")
    if "pid" in found:
        uptime, size = found["uptime_seconds"], found["rss_bytes"]
        figures = [str(found["pid"]), units.format_duration(uptime), units.format_size(size)]
        figures.append(f"{found['cpu_percent']:.0f} %")
    if at and not last:
        last = f"{units.local_time(at)} {found['last_reason']}"
    counts = [str(found["restarts_24h"]), str(sum(found["restarts"].values()))]
    return [found["task"], found["state"], *figures, *counts, last]


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_json(made)
    made.add_argument("names", nargs="*", metavar="NAME", help="only these tasks")
    return made


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    options = parser().parse_args(argv)
    settings, processes = config.load(options.config), Processes()
    events = history.since(settings.state, 86400.0)
    names = cli.chosen_tasks(settings, options.names) or list(settings.tasks)
    # What left upkeep.toml is shown while it runs, unless another name has taken it over.
    left = [] if options.names else [n for n in record.names(settings.state) if n not in names]
    found = [row(task.load(settings, name), processes, events) for name in (*names, *left)]
    taken = {None, *(each.get("pid") for each in found[: len(names)])}
    found[len(names) :] = [each for each in found[len(names) :] if each.get("pid") not in taken]
    if options.json:
        cli.print_json({"results": found})
    else:
        header, *lines = text.table(HEADER, map(cells, found), "<<>>>>>>")
        print(header)
        for line, each in zip(lines, found, strict=True):
            print(cli.colour(line, COLOURS.get(each["state"], 31)))
    states = {each["state"] for each in found}
    bad = Exit.PROBLEM if states & {"dead", "failing", "unknown"} else Exit.DONE
    return Exit.GIVEN_UP if "given_up" in states else bad


if __name__ == "__main__":
    raise SystemExit(main())
