"""The report: as text with sparklines, and as an HTML page of inline SVG without scripts."""

import math
import textwrap
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from upkeep import text, units
from upkeep.samples import Point, Row, Series, life_of
from upkeep.settings import HostSettings

_WIDTH, _HEIGHT = 640, 120
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">{refresh}<title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.4 sans-serif; max-width: 60em; margin: 1em auto; padding: 0 1em; }}
h1 {{ font-size: 1.3em; }} h2 {{ font-size: 1em; margin: 1em 0 0; }} pre {{ overflow-x: auto; }}
svg {{ width: 100%; background: #8881; }} text {{ font-size: 11px; fill: gray; }}
path {{ fill: none; stroke: #1c7ed6; stroke-width: 1.5; }}
.limit {{ stroke: #e03131; }} .restart {{ stroke: gray; stroke-dasharray: 3; }}
</style></head><body><h1>{title}</h1><pre>{report}</pre>
"""


def as_text(
    found: Row, series: Series, wrong: Sequence[str], settings: HostSettings, top: int
) -> str:
    """The report, 80 columns wide."""
    size, host, coverage = units.format_size, found["host"], found["coverage"]
    share, rate = host["used_bytes"] / host["limit_bytes"], host["swap_rate_bytes_per_second"]
    fine = f"OK: {share:.0%} of {size(host['limit_bytes'])} in use"
    told = ["PROBLEM: " + wrong[0], *(f"and: {each}" for each in wrong[1:])] if wrong else [fine]
    lines = [part for line in told for part in textwrap.wrap(line, 80, subsequent_indent="  ")]
    stalled = (host["pressure"] or {}).get("some_avg60", "?")
    kills = "?" if host["oom_kills"] is None else host["oom_kills"]
    lines += [
        *_attention(found["programs"], settings),
        f"available {size(host['available_bytes'])}, limit {size(host['limit_bytes'])}"
        f" ({host['limit_source']}), stalled {stalled} % of a minute",
        f"swap {size(host['swap_used_bytes'])} of {size(host['swap_total_bytes'])},"
        f" moving {'?' if rate is None else size(rate)}/s; out-of-memory kills: {kills}",
        "",
    ]
    cells = [
        (
            text.cut(text.printable(row["name"]), 24),
            str(row["processes"]),
            size(row["rss_bytes"]),
            "-" if row["pss_bytes"] is None else size(row["pss_bytes"]),
            str(row["restarts_24h"]),
            row["verdict"].replace("_", " "),
            sparkline(series.get(row["name"], [])),
        )
        for row in found["programs"][:top]
    ]
    lines += text.table(("PROGRAM", "N", "RSS", "PSS", "24H", "TREND", "LAST"), cells, "<>>>><<")
    lines += [f"PSS known for {coverage['pss_known']} of {coverage['processes']} processes"]
    return "\n".join([*map(text.printable, lines), *_places(found)])


def _attention(programs: Sequence[Row], settings: HostSettings) -> Iterator[str]:
    """The programs above the levels that deserve attention."""
    for row in programs:
        size, today, ever = row["rss_bytes"], row["restarts_24h"], row["restarts_by_manager"] or 0
        often = max(today, ever) > settings.restarts_attention
        if size > settings.program_attention or often:
            in_all = f", {ever} in all by its manager's count" if ever else ""
            yield f"! {row['name']}: {units.format_size(size)}, {today} restarts in 24 h{in_all}"


def _places(found: Row) -> Iterator[str]:
    """Disks, with the days until they are full, and the largest data directories."""
    for row in found["disks"]:
        used, free, rate = row["used_bytes"], row["free_bytes"], row["growth_bytes_per_day"]
        days = free / rate if rate and rate > 0 else math.inf
        full = f", full in {days:.0f} days" if days < 365 else ""
        sizes = f"{units.format_size(used)} used, {units.format_size(free)} free{full}"
        yield f"disk {text.printable(row['path'])}: {sizes}"
    for row in found["directories"][:10]:
        rate = row["growth_bytes_per_day"]
        rise = f", {units.format_size(rate)} a day" if rate else ""
        yield f"{text.printable(row['path'])}: {units.format_size(row['size_bytes'])}{rise}"


def columns(points: Sequence[Point], count: int) -> dict[int, Point]:
    """The highest point of each of `count` equal stretches of time, where there is one."""
    ordered = sorted(points, key=attrgetter("time"))  # they may be out of order: clocks are set
    times = [point.time for point in ordered]
    step = max(1.0, times[-1] - times[0]) / count
    edges = [bisect_left(times, times[0] + step * index) for index in range(count)]
    return {
        index: max(ordered[begin:end], key=attrgetter("rss_bytes"))
        for index, (begin, end) in enumerate(pairwise([*edges, len(times)]))
        if begin < end
    }


def sparkline(points: Sequence[Point], count: int = 10) -> str:
    """The RSS in `count` characters; blank where nothing ran."""
    found = columns(points, count) if points else {}
    top = max((point.rss_bytes for point in found.values()), default=0) or 1
    heights = {index: point.rss_bytes * 7 // top for index, point in found.items()}
    return "".join("▁▂▃▄▅▆▇█"[heights[at]] if at in heights else " " for at in range(count))


def as_html(
    report: str, charts: Mapping[str, tuple[Sequence[Point], float]], refresh: float
) -> str:
    """The page: `report`, its first line as the title, and charts of (points, limit in bytes).

    With `refresh` the page loads itself anew after that many seconds.
    """
    again = f'<meta http-equiv="refresh" content="{refresh:.0f}">' if refresh else ""
    title, *rest = map(_escaped, report.split("\n"))
    parts = [_HEAD.format(refresh=again, title=title, report="\n".join(rest).strip("\n"))]
    for name, (points, limit) in charts.items():
        if points:
            parts.append(f"<h2>{_escaped(name)}</h2>{_svg(points, limit)}\n")
    return "".join(parts) + "</body></html>\n"


def _escaped(line: str) -> str:
    return text.printable(line).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


class Chart(NamedTuple):
    """A drawing of memory over time, in pixels from the upper left."""

    lines: list[list[tuple[int, int]]]  # one for each life of the program
    restarts: list[int]
    limit: int | None  # None: too far above to be shown
    top: float  # bytes at the upper edge


def chart(points: Sequence[Point], limit: float, width: int, height: int) -> Chart:
    """Draw `points`; `limit` in bytes. Of every four columns of pixels the highest point stays."""
    found = columns(points, width // 4)
    highest = max(point.rss_bytes for point in found.values())
    top = (limit if highest < limit < 3 * highest else highest) * 1.2 or 1.0
    made = Chart([], [], round(height * (1 - limit / top)) if limit < top else None, top)
    last = None
    for index, point in found.items():
        if (life := life_of(point)) != last:
            made.restarts.extend([index * 4] if last else [])
            made.lines.append([])
        made.lines[-1].append((index * 4, round(height * (1 - point.rss_bytes / top))))
        last = life
    return made


def _svg(points: Sequence[Point], limit: float) -> str:
    drawn = chart(points, limit, _WIDTH, _HEIGHT)
    line = "".join("M" + "L".join(f"{x} {y}" for x, y in each) for each in drawn.lines)
    restarts = "".join(f"M{x} 0V{_HEIGHT}" for x in drawn.restarts)
    level = "" if drawn.limit is None else f"M0 {drawn.limit}H{_WIDTH}"
    begin, end = (units.local_time(point.time)[:16] for point in (points[0], points[-1]))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="memory over time">'
        f'<path class="restart" d="{restarts}"/><path class="limit" d="{level}"/>'
        f'<path d="{line}"/><text x="4" y="12">{units.format_size(drawn.top)}</text>'
        f'<text x="4" y="{_HEIGHT - 4}">{begin}</text>'
        f'<text x="{_WIDTH - 110}" y="{_HEIGHT - 4}">{end}</text></svg>'
    )
