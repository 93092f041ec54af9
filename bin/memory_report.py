#!/usr/bin/env python3
"""Report the memory of this host and of its programs; the first line is the verdict.

usage: memory_report.py [--since 3d] [--top N] [--json | --html FILE | --export FILE] [--telegram]

    PROBLEM: trader.py: leak, 48 MiB a day, at its limit in 2 d 6 h
    swap 120 MiB of 512 MiB, moving 0 B/s; stalled 0.0% of a minute; 0 out-of-memory kills
    disk / 9.1 GiB used, 28 GiB free

    PROGRAM    N      RSS  24H  TREND      LAST
    trader.py  1  192 MiB    0  leak       ▂▂▃▄▄▅▅▆▇█
    shop:app   5  160 MiB    0  steady     ▇▇█▇▇▇▇█▇▇

exit codes: 0 reported, whatever was found; 1 something could not be read or written; 2 usage or
configuration.
"""

import collections
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, history, leak, memory, page, programs, samples, text
from upkeep.alerts import Alerts
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.programs import Program
from upkeep.samples import Point, Row, Series
from upkeep.settings import HostSettings
from upkeep.units import format_size

EXAMPLES = """  memory_report.py  # how is this host, and who uses its memory?
  memory_report.py --json | jq '.programs[] | select(.verdict == "leak")'  # which ones leak?
  memory_report.py --html /srv/www/memory.html --refresh 30s  # a page to keep open
  memory_report.py --export - | ssh desk memory_report.py --history -  # judge it elsewhere"""
DAY = 86400.0
WINDOWS = {"restarts_24h": DAY, "restarts_7d": 7 * DAY}


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("--since", type=cli.duration, metavar="D", help="window of charts and trends")
    made.add_argument("--top", type=cli.count, metavar="N", help="rows of programs")
    kinds = made.add_mutually_exclusive_group()
    kinds.add_argument("--json", action="store_true", help="print one JSON document")
    kinds.add_argument("--html", metavar="FILE", help="write a page with charts")
    kinds.add_argument("--export", metavar="FILE", help="write the history, for --history")
    made.add_argument("--refresh", type=cli.duration, metavar="D", help="the page reloads itself")
    made.add_argument("--telegram", action="store_true", help="send the report")
    made.add_argument("--history", metavar="FILE", help="judge this history, not this host's")
    made.add_argument("--proc-root", metavar="DIR", default="/proc", help="read DIR, not /proc")
    return made


def gather(settings: Config, options: Namespace) -> tuple[Row, Series]:
    """The document and the history behind it. Raises OperatorError."""
    now, host = time.time(), memory.read_host(options.proc_root)
    found = programs.collect(options.proc_root, settings, host["boot_id"])
    programs.read_details(found[: options.top or settings.host.top], options.proc_root)
    disks = memory.read_disks(settings.host.disks)
    past, skipped = samples.read(settings.state, max(options.since or 0, 7 * DAY), now)
    here = samples.line(now, host, disks, found)
    series = samples.series([*past, samples.with_points(here)])
    limits = leak.limits(settings, found, host["available_bytes"])
    window = options.since or leak.WINDOW_SECONDS
    if options.history:
        series, skipped = read_history(options.history)
        now = max((points[-1].time for points in series.values()), default=now)
        own = {task.name: task.max_rss for task in settings.tasks.values()}
        limits = {name: float(own.get(name) or host["limit_bytes"]) for name in series}
        window = options.since or now
    if skipped:
        cli.warn(f"{options.history or settings.state}: {skipped} lines are no samples: left out")
    rows = {
        name: program_row(name, series.get(name, []), limit, window, now)
        for name, limit in limits.items()
    }
    if not options.history:
        add_what_runs(settings, host, found, rows)
    seconds = host["uptime_seconds"] - past[-1]["uptime"] if past else 0.0
    moved = host["swapped_bytes"] - past[-1]["swapped"] if seconds > 0 else 0
    cached = [row["dirs"] for row in past if "dirs" in row and row["time"] > now - 3600]
    sizes = cached[-1] if cached else memory.directory_sizes(settings.host.data_dirs)
    document = {
        "time": now,
        "host": host | {"swap_rate_bytes_per_second": moved / seconds if seconds > 0 else None},
        "coverage": {
            "pss_known": sum(len(each.pids) for each in found if each.pss_bytes is not None),
            "processes": sum(len(each.pids) for each in found),
        },
        "programs": sorted(rows.values(), key=lambda row: -row["rss_bytes"]),
        "disks": [{"path": k, "used_bytes": v[0], "free_bytes": v[1]} for k, v in disks.items()],
        "directories": [{"path": path, "size_bytes": size} for path, size in sizes.items()],
    }
    return document, series


def program_row(name: str, points: Sequence[Point], limit: float, window: float, now: float) -> Row:
    """What a history tells about one program. Restarts: lives that more than one sample saw."""
    judged = leak.judge([point for point in points if point.time >= now - window], limit, now)
    row: Row = {"name": name, "task": False, "processes": 1, "rss_bytes": 0, "pss_bytes": None}
    row |= {"fds": None, "limit_bytes": limit, **judged._asdict()}
    for key, seconds in WINDOWS.items():
        lives = collections.Counter(point.life for point in points if point.time >= now - seconds)
        row[key] = max(0, sum(count > 1 for count in lives.values()) - 1)
    if points:
        row |= {"rss_bytes": points[-1].rss_bytes, "pss_bytes": points[-1].pss_bytes}
    return row


def add_what_runs(settings: Config, host: Row, found: list[Program], rows: Row) -> None:
    """Complete the rows by what is known of this host's programs."""
    now, uptime, boot_id = time.time(), host["uptime_seconds"], host["boot_id"]
    for each in found:
        rows[each.name] |= {"task": each.name in settings.tasks, "processes": len(each.pids)}
        rows[each.name] |= {"rss_bytes": each.rss_bytes, "pss_bytes": each.pss_bytes}
        rows[each.name] |= {"fds": each.fds}
    for key, seconds in WINDOWS.items():
        events = history.since(settings.state, seconds, now, uptime, boot_id)
        for task in settings.tasks:
            rows[task][key] = history.count_restarts(events, task)


def read_history(file: str) -> tuple[Series, int]:
    """A history from elsewhere; "-" is stdin. Raises OperatorError."""
    try:
        return samples.parse(sys.stdin.buffer if file == "-" else Path(file).open("rb"))
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read: {error.strerror}") from None


def problems(found: Row, limits: HostSettings) -> list[str]:
    """What is wrong, each with its figure and the limit it was compared with."""
    host = found["host"]
    sizes = [("memory", host["used_bytes"], host["limit_bytes"], limits.memory_alert)]
    for disk in found["disks"]:
        total = disk["used_bytes"] + disk["free_bytes"]
        sizes.append((f"disk {disk['path']}", disk["used_bytes"], total, limits.disk_alert))
    leaks = [row for row in found["programs"] if row["verdict"] == "leak"]
    return [
        f"{what} {used / total:.0%} of {format_size(total)} in use > {limit:.0%}"
        for what, used, total, limit in sizes
        if used > limit * total
    ] + [f"{row['name']}: {leak.describe(row)}" for row in leaks]


def render(found: Row, series: Series, limits: HostSettings, top: int) -> list[str]:
    """The report as lines; the table fits 60 columns."""
    host, sizes = found["host"], dict[str, str]()
    for name in ("limit", "available", "swap_used", "swap_total"):
        sizes[name] = format_size(host[f"{name}_bytes"])
    share = host["used_bytes"] / host["limit_bytes"]
    fine = f"OK: {share:.0%} of {sizes['limit']} in use, {sizes['available']} available"
    lines = ["PROBLEM: " + "; ".join(wrong) if (wrong := problems(found, limits)) else fine]
    for row in found["programs"]:
        if (
            row["rss_bytes"] > limits.program_attention
            or row["restarts_24h"] > limits.restarts_attention
        ):
            size, restarts = format_size(row["rss_bytes"]), row["restarts_24h"]
            lines.append(f"! {row['name']}: {size}, {restarts} restarts in 24 h")
    stalled = (host["pressure"] or {}).get("some_avg60", "?")
    moving = format_size(host["swap_rate_bytes_per_second"] or 0)
    lines += [
        "swap {swap_used} of {swap_total}".format(**sizes) + f", moving {moving}/s",
        f"stalled for memory {stalled} % of a minute; out-of-memory kills: {host['oom_kills']}",
    ]
    for disk in found["disks"]:
        used, free = format_size(disk["used_bytes"]), format_size(disk["free_bytes"])
        lines.append(f"disk {disk['path']}: {used} used, {free} free")
    cells = [
        (
            text.cut(text.printable(row["name"]), 24),
            str(row["processes"]),
            format_size(row["rss_bytes"]),
            str(row["restarts_24h"]),
            row["verdict"].replace("_", " "),
            page.sparkline(series.get(row["name"], [])),
        )
        for row in found["programs"][:top]
    ]
    lines += ["", *text.table(("PROGRAM", "N", "RSS", "24H", "TREND", "LAST"), cells, "<>>><<")]
    lines += ["PSS known for {pss_known} of {processes} processes".format(**found["coverage"])]
    for row in found["directories"][:10]:
        lines.append(f"{format_size(row['size_bytes']):>9}  {row['path']}")
    return [text.printable(line) for line in lines]


def write(file: str, content: str) -> None:
    """Replace `file` at once, readable by all; "-" is stdout. Raises OperatorError."""
    if file == "-":
        print(content, end="")
        return
    try:
        files.atomic_write(
            Path(file).absolute(), content.encode("utf-8", "backslashreplace"), 0o644
        )
    except OSError as error:
        raise OperatorError(f"{file}: cannot be written: {error.strerror}") from None


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Report. Returns the exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    top = options.top or settings.host.top
    found, series = gather(settings, options)
    lines = render(found, series, settings.host, top)
    if options.json:
        cli.print_json(found)
    elif options.export:
        write(options.export, "".join(f"{line}\n" for line in samples.export(series)))
    elif options.html:
        rows = {row["name"]: row["limit_bytes"] for row in found["programs"][:top]}
        charts = {name: (series.get(name, []), limit) for name, limit in rows.items()}
        write(options.html, page.render(lines, charts, options.refresh))
    elif not options.telegram:
        print("\n".join(lines))
    if options.telegram:
        with Alerts(settings) as alerts:
            alerts.inform(lines[0], "\n".join(lines[1:]), kind="pre")
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
