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
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, history, leak, levels, memory, page, samples, text
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.samples import Point, Reading, Row, Series
from upkeep.settings import HostSettings
from upkeep.units import format_size

EXAMPLES = """  memory_report.py  # how is this host, and who uses its memory?
  memory_report.py --json | jq '.programs[] | select(.verdict == "leak")'  # which ones leak?
  memory_report.py --html /srv/www/memory.html --refresh 30s  # a page to keep open
  memory_report.py --export - | ssh desk memory_report.py --history -  # judge it elsewhere"""
DAY = 86400.0
Lines = list[str]
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
    cli.add_dry_run(made)
    made.add_argument("--history", metavar="FILE", help="judge this history, not this host's")
    made.add_argument("--proc-root", metavar="DIR", default="/proc", help="read DIR, not /proc")
    return made


def gather(settings: Config, options: Namespace) -> tuple[Row, Series, list[str]]:
    """The document, the history behind it, and what is wrong. Raises OperatorError."""
    now = samples.take(settings, options.proc_root, options.top or settings.host.top)
    past, skipped = samples.read(settings.state, max(options.since or 0, 7 * DAY), now.time)
    series = samples.series([*past, samples.with_points(now.row)])
    end, limits, window = now.time, now.limits, options.since or leak.WINDOW_SECONDS
    if options.history:
        series, skipped = read_history(options.history)
        limits = {name: int(now.host["limit_bytes"]) for name in series}
        end = max((points[-1].time for points in series.values()), default=end)
        window = options.since or math.inf
    if skipped:
        cli.warn(f"{options.history or settings.state}: {skipped} lines are no samples: left out")
    verdicts = leak.judge_all(settings, series, limits, end, window)
    rows = {name: program_row(name, series.get(name, []), each) for name, each in verdicts.items()}
    if not options.history:
        add_what_runs(settings, now, rows)
    wrong = [x.text for x in levels.compare(settings, now, verdicts, math.inf) if x.over]
    charts = {
        name: [p for p in points if p.time >= end - window] for name, points in series.items()
    }
    return document(settings, now, past, list(rows.values())), charts, wrong


def program_row(name: str, points: Sequence[Point], judged: leak.Verdict) -> Row:
    """What a history tells about one program. Restarts: lives that more than one sample saw."""
    last = points[-1] if points else Point(0.0, "", 0, 0, 0, 0.0)
    row = {"name": name, "task": False, "processes": 1, "rss_bytes": last.rss_bytes}
    row |= {"pss_bytes": last.pss_bytes, "fds": None, **judged._asdict()}
    for key, seconds in WINDOWS.items():
        lives = collections.Counter(x.life for x in points if x.time >= last.time - seconds)
        row[key] = max(0, sum(count > 1 for count in lives.values()) - 1)
    return row


def add_what_runs(settings: Config, now: Reading, rows: dict[str, Row]) -> None:
    """Complete the rows by what is known of this host's programs."""
    for each in now.programs:
        row = rows[each.name]
        row |= {"task": each.name in settings.tasks, "processes": len(each.pids)}
        row |= {"rss_bytes": each.rss_bytes, "pss_bytes": each.pss_bytes, "fds": each.fds}
    for key, seconds in WINDOWS.items():
        uptime, boot_id = now.host["uptime_seconds"], now.host["boot_id"]
        here = {"time": now.time, "uptime": uptime, "boot_id": boot_id}
        events = history.since(settings.state, seconds, here)
        for task in settings.tasks:
            rows[task][key] = history.count_restarts(events, task)


def document(settings: Config, now: Reading, past: list[Row], rows: list[Row]) -> Row:
    """The JSON document, the programs largest first."""
    seconds = now.host["uptime_seconds"] - past[-1]["uptime"] if past else 0.0
    rate = (now.host["swapped_bytes"] - past[-1]["swapped"]) / seconds if seconds > 0 else None
    cached = [row["dirs"] for row in past if "dirs" in row and row["time"] > now.time - 3600]
    sizes = cached[-1] if cached else memory.directory_sizes(settings.host.data_dirs)
    known = [len(each.pids) for each in now.programs if each.pss_bytes is not None]
    disks, directories = [], []
    for path, (used, free) in now.disks.items():
        growth = growth_per_day(now.time, used, past, "disks", path)
        days = free / growth if growth and growth > 0 else None
        disk = {"path": path, "used_bytes": used, "free_bytes": free, "days_until_full": days}
        disks.append(disk)
    for path, size in sizes.items():
        growth = growth_per_day(now.time, size, past, "dirs", path)
        directories.append({"path": path, "size_bytes": size, "growth_bytes_per_day": growth})
    return {
        "time": now.time,
        "host": {**now.host, "swap_rate_bytes_per_second": rate},
        "coverage": {
            "pss_known": sum(known),
            "processes": sum(len(each.pids) for each in now.programs),
        },
        "programs": sorted(rows, key=lambda row: -row["rss_bytes"]),
        "disks": disks,
        "directories": directories,
    }


def growth_per_day(now: float, size: int, past: list[Row], kind: str, path: str) -> float | None:
    """How much a disk or directory grows; None before the history is six hours long."""
    known = [(row["time"], row[kind][path]) for row in past if path in row.get(kind, {})]
    values = [(at / DAY, value[0] if kind == "disks" else value) for at, value in known]
    if not values or now / DAY - values[0][0] < 0.25:
        return None
    return leak.sen_slope([*values[:: len(values) // 48 + 1], (now / DAY, size)])[0]


def read_history(file: str) -> tuple[Series, int]:
    """A history from elsewhere; "-" is stdin. Raises OperatorError."""
    try:
        return samples.parse(sys.stdin.buffer if file == "-" else Path(file).open("rb"))
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read: {error.strerror}") from None


def render(found: Row, series: Series, wrong: list[str], settings: HostSettings, top: int) -> Lines:
    """The report as lines; the table fits 60 columns."""
    host, coverage = found["host"], found["coverage"]
    names = ("limit", "available", "swap_used", "swap_total")
    limit, available, swapped, swap = (format_size(host[f"{name}_bytes"]) for name in names)
    share = host["used_bytes"] / host["limit_bytes"]
    fine = f"OK: {share:.0%} of {limit} in use, {available} available"
    lines = ["PROBLEM: " + "; ".join(wrong) if wrong else fine]
    for row in found["programs"]:
        size, restarts = row["rss_bytes"], row["restarts_24h"]
        if size > settings.program_attention or restarts > settings.restarts_attention:
            lines.append(f"! {row['name']}: {format_size(size)}, {restarts} restarts in 24 h")
    moving = format_size(host["swap_rate_bytes_per_second"] or 0)
    stalled = (host["pressure"] or {}).get("some_avg60", "?")
    lines += [f"swap {swapped} of {swap}, moving {moving}/s; stalled {stalled} % of a minute"]
    lines += [f"out-of-memory kills since boot: {host['oom_kills']}"]
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
    lines += [f"PSS known for {coverage['pss_known']} of {coverage['processes']} processes"]
    for row in found["disks"]:
        used, free = format_size(row["used_bytes"]), format_size(row["free_bytes"])
        days = row["days_until_full"]
        full = "" if days is None or days > 365 else f", full in {days:.0f} days"
        lines.append(f"disk {row['path']}: {used} used, {free} free{full}")
    for row in found["directories"][:10]:
        size, growth = format_size(row["size_bytes"]), row["growth_bytes_per_day"]
        rate = "" if growth is None else f", {format_size(growth)} a day"
        lines.append(f"{row['path']}: {size}{rate}")
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
    found, series, wrong = gather(settings, options)
    lines = render(found, series, wrong, settings.host, top)
    if options.json:
        cli.print_json(found)
    elif options.export:
        write(options.export, "".join(f"{line}\n" for line in samples.export(series)))
    elif options.html:
        rows = {row["name"]: row["limit_bytes"] or 0.0 for row in found["programs"][:top]}
        charts = {name: (series.get(name, []), limit) for name, limit in rows.items()}
        write(options.html, page.render(lines, charts, options.refresh))
    elif not options.telegram:
        print("\n".join(lines))
    if options.telegram and not options.dry_run:
        from upkeep.alerts import Alerts

        with Alerts(settings) as alerts:
            alerts.inform(lines[0], "\n".join(lines[1:]), kind="pre")
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
