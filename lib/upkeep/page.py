"""Memory over time as a sparkline, and as an HTML page of inline SVG without scripts."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from upkeep import text, units
from upkeep.samples import Point

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


def render(report: str, charts: Mapping[str, tuple[Sequence[Point], float]], refresh: float) -> str:
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
        if point.life != last:
            made.restarts.extend([index * 4] if last else [])
            made.lines.append([])
        made.lines[-1].append((index * 4, round(height * (1 - point.rss_bytes / top))))
        last = point.life
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
