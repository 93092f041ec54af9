#!/usr/bin/env python3
"""Report the memory of this host and of its programs; the first line is the verdict.

usage: memory_report.py [--top N] [--json] [--telegram] [--proc-root DIR]

exit codes: 0 reported, whatever was found; 1 something could not be read or sent; 2 usage or
configuration.
"""

import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, history, memory, proc, programs, text
from upkeep.config import Config
from upkeep.errors import Exit
from upkeep.programs import Program
from upkeep.settings import HostSettings
from upkeep.units import format_duration, format_size

EXAMPLES = """  memory_report.py             # how is this host, and who uses its memory?
  memory_report.py --telegram  # the same on a phone
  memory_report.py --json | jq '.programs[0]'"""

DAY = 86400.0

Document = dict[str, Any]
Events = list[history.Event]


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    cli.add_json(made)
    made.add_argument("--top", type=cli.count, metavar="N", help="rows of programs")
    made.add_argument("--proc-root", metavar="DIR", default="/proc", help="read DIR, not /proc")
    return made


def program_row(program: Program, host: memory.Host, day: Events, week: Events) -> Document:
    """One program as it stands in the JSON document. The events are those of one and seven days."""
    leader = program.leader
    age = host.uptime_seconds - leader.start_ticks / proc.TICKS_PER_SECOND if leader else None
    return {
        "name": program.name,
        "task": program.task,
        "processes": len(program.pids),
        "rss_bytes": program.rss_bytes,
        "pss_bytes": program.pss_bytes,
        "fds": program.fds,
        "age_seconds": age and round(age, 2),
        "restarts_24h": history.count_restarts(day, program.name) if program.task else 0,
        "restarts_7d": history.count_restarts(week, program.name) if program.task else 0,
    }


def document(settings: Config, root: str, top: int, now: float) -> Document:
    """Everything the report says, from readings made now."""
    host = memory.read_host(root)
    found = programs.collect(root, programs.running_tasks(settings, host.boot_id, root))
    programs.read_details(found[:top], root)
    running = {program.name for program in found if program.task}
    found += [Program(name, None, task=True) for name in settings.tasks if name not in running]
    day, week = (
        history.since(settings.state, days * DAY, now, host.uptime_seconds, host.boot_id)
        for days in (1, 7)
    )
    disks = memory.read_disks(settings.host.disks)
    sizes = memory.directory_sizes(settings.host.data_dirs) if settings.host.data_dirs else {}
    return {
        "time": round(now, 3),
        "host": asdict(host),
        "coverage": {
            "pss_known": sum(len(each.pids) for each in found if each.pss_bytes is not None),
            "processes": sum(len(each.pids) for each in found),
        },
        "programs": [program_row(each, host, day, week) for each in found],
        "disks": [
            {"path": path, "used_bytes": used, "free_bytes": free}
            for path, (used, free) in disks.items()
        ],
        "directories": [{"path": path, "size_bytes": size} for path, size in sizes.items()],
    }


def problems(found: Document, limits: HostSettings) -> list[str]:
    """What is wrong, each with the figure and the limit it was compared with."""
    host = found["host"]
    share = host["used_bytes"] / host["limit_bytes"]
    wrong = []
    if share > limits.memory_alert:
        size = format_size(host["limit_bytes"])
        wrong.append(f"memory {share:.0%} of {size} in use > {limits.memory_alert:.0%}")
    for disk in found["disks"]:
        share = disk["used_bytes"] / max(1, disk["used_bytes"] + disk["free_bytes"])
        if share > limits.disk_alert:
            wrong.append(f"disk {disk['path']} {share:.0%} in use > {limits.disk_alert:.0%}")
    return wrong


def attention(found: Document, limits: HostSettings) -> list[str]:
    """What is worth a look, though it breaks no limit."""
    size, restarts = limits.program_attention, limits.restarts_attention
    large = [each for each in found["programs"] if each["rss_bytes"] > size]
    often = [each for each in found["programs"] if each["restarts_24h"] > restarts]
    return [
        f"{each['name']}: {format_size(each['rss_bytes'])} > {format_size(size)}" for each in large
    ] + [f"{each['name']}: {each['restarts_24h']} restarts in 24 h > {restarts}" for each in often]


def verdict(found: Document, limits: HostSettings) -> str:
    """The first line of the report."""
    wrong = problems(found, limits)
    if wrong:
        return "PROBLEM: " + "; ".join(wrong)
    host = found["host"]
    share, size = host["used_bytes"] / host["limit_bytes"], format_size(host["limit_bytes"])
    return f"OK: {share:.0%} of {size} in use, {format_size(host['available_bytes'])} available"


def render(found: Document, limits: HostSettings, top: int) -> list[str]:
    """The report as lines of at most 80 columns."""
    host, coverage = found["host"], found["coverage"]
    swap = f"{format_size(host['swap_used_bytes'])} of {format_size(host['swap_total_bytes'])} used"
    pressure = (host["pressure"] or {}).get("some_avg60")
    stalled = "unknown" if pressure is None else f"{pressure:.1f} % of the last minute stalled"
    kills = "unknown" if host["oom_kills"] is None else f"{host['oom_kills']} since boot"
    lines = [verdict(found, limits)]
    lines += [f"! {line}" for line in attention(found, limits)]
    lines += ["", f"swap: {swap if host['swap_total_bytes'] else 'none'}; pressure: {stalled}"]
    lines += [f"out-of-memory kills: {kills}; up {format_duration(host['uptime_seconds'])}"]
    lines += [
        f"disk {disk['path']}: {format_size(disk['used_bytes'])} used,"
        f" {format_size(disk['free_bytes'])} free"
        for disk in found["disks"]
    ]
    lines += ["", *program_table(found["programs"][:top])]
    known, total = coverage["pss_known"], coverage["processes"]
    lines += [f"PSS known for {known} of {total} processes"]
    if found["directories"]:
        rows = [(each["path"], format_size(each["size_bytes"])) for each in found["directories"]]
        lines += ["", *text.table(("DIRECTORY", "SIZE"), rows[:10], "<>")]
    return [text.printable(line) for line in lines]


def program_table(rows: list[Document]) -> list[str]:
    """One line per program."""
    header = ("PROGRAM", "N", "RSS", "PSS", "AGE", "24H")
    cells = [
        (
            text.cut(row["name"], 28),
            str(row["processes"]),
            format_size(row["rss_bytes"]),
            "-" if row["pss_bytes"] is None else format_size(row["pss_bytes"]),
            "-" if row["age_seconds"] is None else format_duration(row["age_seconds"]),
            str(row["restarts_24h"]),
        )
        for row in rows
    ]
    return text.table(header, cells, "<>>>>>")


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Report. Returns the exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    top = options.top or settings.host.top
    found = document(settings, options.proc_root, top, time.time())
    if options.json:
        cli.print_json(found)
        return Exit.DONE
    print("\n".join(render(found, settings.host, top)))
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
