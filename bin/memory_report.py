#!/usr/bin/env python3
"""Report the memory of this host and of its programs; the first line is the verdict.

usage: memory_report.py [--since 3d] [--top N] [--json | --html FILE | --export FILE] [--telegram]

    PROBLEM: trader.py: leak, 48 MiB a day, at its limit in 2 d 6 h

    swap: 120 MiB of 512 MiB used, moving 0 B/s
    pressure: 0.0 % of a minute stalled
    kills for want of memory: 0 since boot, 9 d 3 h ago
    disk /: 9.1 GiB used, 28 GiB free, full in 61 days

    PROGRAM       N      RSS      PSS  24H  TREND   LAST
    trader.py     1  192 MiB  188 MiB    0  leak    ▂▂▃▄▄▅▅▆▇█
    shop:app      5  160 MiB   74 MiB    0  steady  ▇▇█▇▇▇▇█▇▇
    PSS known for 6 of 97 processes

exit codes: 0 reported, whatever was found; 1 something could not be read or written; 2 usage or
configuration.
"""

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, leak, memory, page, report, samples, text
from upkeep.alerts import Alerts
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.report import Document
from upkeep.samples import Series
from upkeep.settings import HostSettings
from upkeep.units import format_duration, format_size

EXAMPLES = """  memory_report.py                # how is this host, and who uses its memory?
  memory_report.py --telegram     # the same on a phone
  memory_report.py --json | jq '.programs[] | select(.verdict == "leak")'  # which ones leak?
  memory_report.py --html /srv/www/memory.html --refresh 30s  # a page to keep open
  memory_report.py --export - | ssh desk memory_report.py --history -  # judge it elsewhere"""
Lines = list[str]


def parser() -> ArgumentParser:
    """The options of this script."""
    made = cli.parser(__doc__, EXAMPLES)
    made.add_argument("--since", type=cli.duration, metavar="D", help="how far back; 3d")
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


def verdict(found: Document, limits: HostSettings) -> str:
    """The first line of the report."""
    wrong, host = report.problems(found, limits), found["host"]
    if wrong:
        return "PROBLEM: " + "; ".join(wrong)
    share, size = host["used_bytes"] / host["limit_bytes"], format_size(host["limit_bytes"])
    return f"OK: {share:.0%} of {size} in use, {format_size(host['available_bytes'])} available"


def host_lines(found: Document) -> list[str]:
    """Swap, pressure, kills and disks."""
    host = found["host"]
    used, total = format_size(host["swap_used_bytes"]), format_size(host["swap_total_bytes"])
    rate = host["swap_rate_bytes_per_second"]
    moved = "" if rate is None else f", moving {format_size(rate)}/s"
    stalled = (host["pressure"] or {}).get("some_avg60")
    lines = [
        f"swap: {used} of {total} used{moved}" if host["swap_total_bytes"] else "swap: none",
        "pressure: " + ("unknown" if stalled is None else f"{stalled:.1f} % of a minute stalled"),
        f"kills for want of memory: {'unknown' if (k := host['oom_kills']) is None else k}"
        f" since boot, {format_duration(host['uptime_seconds'])} ago",
    ]
    for disk in found["disks"]:
        days = disk["days_until_full"]
        full = f", full in {days:.0f} days" if days is not None and days < 365 else ""
        free = f"{format_size(disk['free_bytes'])} free{full}"
        lines.append(f"disk {disk['path']}: {format_size(disk['used_bytes'])} used, {free}")
    return lines


def program_table(rows: list[Document], found: Series, narrow: bool) -> list[str]:
    """One line per program; `narrow` fits a phone."""
    header = ["PROGRAM", "RSS", "24H", "TREND", "LAST"]
    cells = [
        [
            text.cut(text.printable(row["name"]), 12 if narrow else 22),
            format_size(row["rss_bytes"]),
            str(row["restarts_24h"]),
            row["verdict"].replace("_", " "),
            page.sparkline(found.get(row["name"], []), 6 if narrow else 10),
        ]
        for row in rows
    ]
    if not narrow:
        header[1:1] = ["N"]
        header[3:3] = ["PSS"]
        for line, row in zip(cells, rows, strict=True):
            line[1:1] = [str(row.get("processes", 1))]
            line[3:3] = ["-" if row["pss_bytes"] is None else format_size(row["pss_bytes"])]
    return text.table(header, cells, "<>><" if narrow else "<>>>><")


def directory_table(rows: list[Document]) -> list[str]:
    """The largest data directories."""
    cells = []
    for row in rows[:10]:
        growth = row["growth_bytes_per_day"]
        shown = "-" if growth is None else f"{format_size(growth)} a day"
        cells.append((row["path"], format_size(row["size_bytes"]), shown))
    return ["", *text.table(("DIRECTORY", "SIZE", "GROWTH"), cells, "<>>")] if cells else []


def render(found: Document, series: Series, limits: HostSettings, top: int, narrow: bool) -> Lines:
    """The report as lines of at most 80 columns, but for the first ones; `narrow` for a phone."""
    coverage = found["coverage"]
    lines = [
        verdict(found, limits),
        *(f"! {line}" for line in report.attention(found, limits)),
        "",
        *host_lines(found),
        "",
        *program_table(found["programs"][:top], series, narrow),
        f"PSS known for {coverage['pss_known']} of {coverage['processes']} processes",
        *directory_table(found["directories"]),
    ]
    return [text.printable(line) for line in lines]


def read_history(file: str) -> Series:
    """A history from elsewhere; "-" is stdin. Raises OperatorError."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read: {error.strerror}", Exit.PROBLEM) from None
    found, skipped = samples.parse(data.split(b"\n"))
    warn_of(skipped, file)
    return found


def warn_of(skipped: int, where: str) -> None:
    """Say that lines were left out."""
    if skipped:
        cli.warn(f"{where}: {skipped} lines are no samples and were left out")


def gather(settings: Config, options: Namespace, top: int) -> tuple[Document, Series]:
    """The document and, for charts, the history that stands behind it. Raises OperatorError."""
    now, since = time.time(), options.since
    reading = samples.take(settings, options.proc_root, now, top)
    past, skipped = samples.read(settings.state, max(since or 0, 7 * report.DAY), now)
    warn_of(skipped, str(settings.state / "memory"))
    cached = next(
        (row["dirs"] for row in reversed(past) if row["time"] > now - 3600 and "dirs" in row), None
    )
    reading.directories = cached or memory.directory_sizes(settings.host.data_dirs)
    if options.history:
        found = read_history(options.history)
        limit = float(reading.host.limit_bytes)
        rows = report.foreign_rows(settings, found, limit, since or float("inf"))
    else:
        found = samples.series([*past, samples.with_points(reading.line())])
        rows = report.live_rows(settings, reading, found, since or leak.WINDOW_SECONDS)
    return report.document(reading, past, rows), found


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
    found, series = gather(settings, options, top)
    lines = render(found, series, settings.host, top, options.telegram)
    if options.json:
        cli.print_json(found)
    elif options.export:
        write(options.export, "".join(f"{line}\n" for line in samples.export(series)))
    elif options.html:
        limits = {row["name"]: row["limit_bytes"] for row in found["programs"][:top]}
        charts = {name: (series.get(name, []), limit) for name, limit in limits.items()}
        write(options.html, page.render(lines, charts, options.refresh))
    elif not options.telegram:
        print("\n".join(lines))
    if options.telegram:
        with Alerts(settings) as alerts:
            alerts.inform(lines[0], "\n".join(lines[1:]), kind="pre")
    return Exit.DONE


if __name__ == "__main__":
    raise SystemExit(main())
