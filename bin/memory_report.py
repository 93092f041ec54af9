#!/usr/bin/env python3
"""Report the memory of this host and of its programs; the first line is the verdict.

usage: memory_report.py [--since 3d] [--top N] [--json | --html FILE | --export FILE]
                        [--telegram [--attach]] [--history FILE]

    PROBLEM: trader: leak, 38 MiB a day, at its limit in 3 d 12 h
    available 1.1 GiB, limit 2.0 GiB (host), stalled 0.0 % of a minute
    swap 119 MiB of 500 MiB, moving 0 B/s; out-of-memory kills: 0

    PROGRAM       N      RSS      PSS  24H  TREND      LAST
    trader        1  167 MiB  161 MiB    0  leak       ▃▄▄▅▅▆▆▇▇█
    shop:app      5  143 MiB   93 MiB    1  too short  ▇▇▇▇█▇▇▇▇▇
    server.js     1  118 MiB   95 MiB    0  steady     ▇▇▇▇▇▇▇█▇▇
    disk /: 25 GiB used, 76 GiB free

exit codes: 0 reported, whatever was found; 1 something could not be read or written; 2 usage or
configuration.
"""

import gc
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

gc.disable()  # a short run without cycles: to look for them costs a fifth of reading a history
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lib"))

from upkeep import cli, config, files, history, leak, levels, memory, page, restarts, samples
from upkeep.config import Config
from upkeep.errors import Exit, OperatorError
from upkeep.programs import Program
from upkeep.reading import Reading, take
from upkeep.samples import Point, Row, Series

EXAMPLES = """  memory_report.py  # how is this host, and who uses its memory?
  memory_report.py --json | jq '.programs[] | select(.verdict == "leak")'  # which ones leak?
  memory_report.py --html /srv/www/memory.html --refresh 30s  # a page to keep open
  memory_report.py --export - | ssh desk memory_report.py --history -  # judge it elsewhere"""
HOUR, DAY = 3600.0, 86400.0  # data directories are measured once an hour
Events = dict[str, list[Row]]
Part = tuple[str, str, bytes, str]  # kind, file name, content and caption of what is sent


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
    made.add_argument("--attach", action="store_true", help="send the page with it")
    cli.add_dry_run(made)
    made.add_argument("--history", metavar="FILE", help="judge this history, not this host's")
    made.add_argument("--proc-root", metavar="DIR", default="/proc", help="read DIR, not /proc")
    return made


def read_records(settings: Config, options: Namespace, now: Row) -> tuple[list[Row], Events, bool]:
    """The history and the restarts of tasks. Not whole without the right to read them.

    Of what is older than a verdict needs, one sample an hour is enough.
    """
    seconds = max(options.since or 0.0, 7 * DAY)
    dense = math.inf if options.export else leak.WINDOW_SECONDS
    try:
        past, skipped = samples.read(settings.state, seconds, now["time"], dense)
        windows = restarts.WINDOWS.items()
        events = {key: history.since(settings.state, age, now) for key, age in windows}
    except OSError as error:
        cli.warn(f"{error.filename}: {error.strerror}: the report is without a history")
        return [], {key: [] for key in restarts.WINDOWS}, False
    if skipped:
        cli.warn(f"{settings.state / 'memory'}: {skipped} lines are no samples: left out")
    return past, events, True


def gather(settings: Config, options: Namespace) -> tuple[Row, Series, list[str]]:
    """The JSON document, the series for charts, and what is wrong. Raises OperatorError."""
    now = take(settings, options.proc_root, options.top or settings.host.top)
    past, events, whole = read_records(settings, options, now.row)
    series = samples.series([*past, samples.with_points(now.row)])
    end, limits, window = now.time, now.limits, options.since or leak.WINDOW_SECONDS
    running = {each.name: each for each in now.programs}
    if options.history:
        series = read_history(options.history)
        limits = {name: int(now.host["limit_bytes"]) for name in series}
        end = max((points[-1].time for points in series.values()), default=end)
        window, running = options.since or math.inf, {}
    verdicts = leak.judge_all(settings, series, limits, end, window)
    managed = restarts.by_managers(now.programs, options.proc_root) if running else {}
    rows = []
    for name, judged in verdicts.items():
        row = program_row(name, judged, series.get(name, []), running.get(name))
        if name in settings.tasks and running:  # every restart of a task is recorded
            row |= {key: history.count_restarts(each, name) for key, each in events.items()}
        rows.append(row | {"restarts_by_manager": managed.get(name)})
    wrong = [x.text for x in levels.compare(settings, now, verdicts, math.inf) if x.over]
    for name, points in series.items():
        series[name] = [point for point in points if point.time >= end - window]
    return document(settings, now, past, rows) | {"history_read": whole}, series, wrong


def program_row(
    name: str, judged: leak.Verdict, points: Sequence[Point], program: Program | None
) -> Row:
    """What is known about one program, by its processes or by its last point."""
    known = program or points[-1]
    row = {"name": name, "processes": len(program.pids) if program else 1}
    row |= {"rss_bytes": known.rss_bytes, "pss_bytes": known.pss_bytes}
    row |= {"fds": program.fds if program else None, **judged._asdict()}
    return row | restarts.by_lives(points)


def document(settings: Config, now: Reading, past: list[Row], rows: list[Row]) -> Row:
    """The JSON document, the programs largest first."""
    last = past[-1] if past and past[-1]["boot_id"] == now.host["boot_id"] else now.row
    seconds = now.host["uptime_seconds"] - last["uptime"]
    rate = (now.host["swapped_bytes"] - last["swapped"]) / seconds if seconds > 1 else None
    cached = [row["dirs"] for row in past if "dirs" in row and row["time"] > now.time - 2 * HOUR]
    sizes = cached[-1] if cached else memory.directory_sizes(settings.host.data_dirs)
    known = [len(each.pids) for each in now.programs if each.pss_bytes is not None]
    return {
        "time": now.time,
        "host": {**now.host, "swap_rate_bytes_per_second": rate},
        "coverage": {"pss_known": sum(known), "processes": sum(len(x.pids) for x in now.programs)},
        "programs": sorted(rows, key=lambda row: -row["rss_bytes"]),
        "disks": [
            {"path": path, "used_bytes": used, "free_bytes": free} | growth(past, "disks", path)
            for path, (used, free) in now.disks.items()
        ],
        "directories": [
            {"path": path, "size_bytes": size} | growth(past, "dirs", path)
            for path, (size,) in sizes.items()
        ],
    }


def growth(past: list[Row], kind: str, path: str) -> Row:
    """How much a disk or directory grows, from six hours of history on."""
    sizes = [(row["time"] / DAY, row[kind][path][0]) for row in past if path in row.get(kind, ())]
    enough = sizes and sizes[-1][0] - sizes[0][0] >= 0.25
    slope = leak.sen_slope(sizes[:: len(sizes) // 48 + 1])[0] if enough else None
    return {"growth_bytes_per_day": slope}


def read_history(file: str) -> Series:
    """A history from elsewhere; "-" is stdin. Raises OperatorError."""
    try:
        found, skipped = samples.parse(sys.stdin.buffer if file == "-" else open(file, "rb"))
    except OSError as error:
        raise OperatorError(f"{file}: cannot be read: {error.strerror}") from None
    if skipped:
        cli.warn(f"{file}: {skipped} lines are no samples: left out")
    return found


def write(file: str, content: str) -> None:
    """Replace `file` at once, readable by all; "-" is stdout. Raises OperatorError."""
    if file == "-":
        print(content, end="")
        return
    path, data = Path(file).absolute(), content.encode("utf-8", "backslashreplace")
    try:
        path.parent.stat()  # made here, it would be a private one
        files.atomic_write(path, data, 0o644)
    except OSError as error:
        raise OperatorError(f"{file}: cannot be written: {error.strerror}") from None


def enclosures(
    found: Row, series: Series, title: str, html: Callable[[], str], attach: bool
) -> Iterator[Part]:
    """A picture of the program that is first to reach its limit, if any grows; and the page, if
    `attach` asks for it or there is no Pillow to draw the picture."""
    from upkeep import picture

    growing = [row for row in found["programs"] if row["verdict"] in ("leak", "growing")]
    left = {row["name"]: row["time_to_limit_seconds"] for row in growing}
    growing.sort(key=lambda row: math.inf if left[row["name"]] is None else left[row["name"]])
    for row in growing[:1]:
        drawn = picture.draw(series[row["name"]], row["limit_bytes"] or 0.0)
        judged = leak.Verdict(*(row[name] for name in leak.Verdict._fields))
        if drawn:
            yield "photo", "trend.png", drawn, f"{row['name']}: {leak.describe(judged)}"
        attach = attach or not drawn
    if attach:
        yield "document", "memory.html", html().encode("utf-8", "backslashreplace"), title


def send(settings: Config, shown: str, parts: Iterable[Part]) -> None:
    """Send the report as a message, and each of `parts` as one more."""
    from upkeep.alerts import Alerts

    with Alerts(settings) as alerts:
        alerts.inform(shown, kind="pre")
        for kind, name, content, caption in parts:
            alerts.attached = content
            alerts.model = replace(alerts.model, upload=kind, file_name=name)
            alerts.inform(caption)


@cli.script
def main(argv: Sequence[str] | None = None) -> int:
    """Report. Returns the exit status."""
    options = parser().parse_args(argv)
    settings = config.load(options.config)
    found, series, wrong = gather(settings, options)
    top = options.top or settings.host.top
    shown = page.as_text(found, series, wrong, settings.host, top)

    def html() -> str:
        limits = {row["name"]: row["limit_bytes"] or 0.0 for row in found["programs"][:top]}
        charts = {name: (series.get(name, []), limit) for name, limit in limits.items()}
        return page.as_html(shown, charts, options.refresh)

    if options.json:
        cli.print_json(found)
    elif options.export and not options.dry_run:
        write(options.export, "".join(f"{line}\n" for line in samples.export(series)))
    elif options.html and not options.dry_run:
        write(options.html, html())
    elif options.dry_run or not options.telegram:
        print(shown)
    if options.telegram and not options.dry_run:
        title = shown.split("\n")[0]
        send(settings, shown, enclosures(found, series, title, html, options.attach))
    return Exit.DONE if found["history_read"] else Exit.PROBLEM


if __name__ == "__main__":
    raise SystemExit(main())
