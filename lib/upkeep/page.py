"""Pictures of memory over time: a sparkline for text, and one HTML page with charts.

The page is one file: inline SVG, no script, nothing from elsewhere; dark where the reader's
system is.
"""

import html
from collections.abc import Mapping, Sequence

from upkeep import text, units
from upkeep.samples import Point

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT, _COLUMNS = 640, 120, 160  # of a chart; minimum and maximum of every column stay
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">{refresh}<title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 14px/1.4 sans-serif; max-width: 60em; margin: 1em auto; padding: 0 1em; }}
h1 {{ font-size: 1.3em; }} h2 {{ font-size: 1em; margin: 1em 0 0; }} pre {{ overflow-x: auto; }}
svg {{ width: 100%; height: auto; background: #8881; }}
path {{ fill: none; stroke: #1c7ed6; stroke-width: 1.5; }} text {{ font-size: 11px; fill: gray; }}
.limit {{ stroke: #e03131; }} .restart {{ stroke: gray; stroke-dasharray: 3; }}
</style></head><body><h1>{title}</h1><pre>{report}</pre>
"""


def sparkline(points: Sequence[Point], columns: int = 10) -> str:
    """The RSS in `columns` characters, the highest of each stretch; blank where nothing ran."""
    if not points:
        return ""
    begin, span = points[0].time, max(1.0, points[-1].time - points[0].time)
    highest = [0] * columns
    for point in points:
        index = min(columns - 1, max(0, int((point.time - begin) / span * columns)))
        highest[index] = max(highest[index], point.rss_bytes)
    top = max(highest) or 1
    return "".join(_BARS[value * 7 // top] if value else " " for value in highest)


def render(
    report: Sequence[str],
    charts: Mapping[str, tuple[Sequence[Point], float]],
    refresh: float | None,
) -> str:
    """The page: `report`, whose first line is the title, and charts of (points, limit in bytes).

    With `refresh` the page loads itself anew after that many seconds.
    """
    again = f'<meta http-equiv="refresh" content="{refresh:.0f}">' if refresh else ""
    title, *rest = map(_escaped, report)
    parts = [_HEAD.format(refresh=again, title=title, report="\n".join(rest).strip("\n"))]
    for name, (points, limit) in charts.items():
        if len(points) > 1:
            parts.append(f"<h2>{_escaped(name)}</h2>\n{_chart(points, limit)}\n")
    return "".join(parts) + "</body></html>\n"


def _chart(points: Sequence[Point], limit: float) -> str:
    begin, span = points[0].time, max(1.0, points[-1].time - points[0].time)
    highest = max(point.rss_bytes for point in points)
    top = (limit if highest < limit < 3 * highest else highest) * 1.05 or 1.0
    columns: dict[tuple[int, tuple[str, int, int]], list[Point]] = {}
    for point in points:
        column = int((point.time - begin) / span * _COLUMNS)
        columns.setdefault((column, point.life), []).append(point)
    line: list[str] = []
    restarts: list[str] = []
    last = points[0].life
    for column, life in columns:
        x = column * _WIDTH // _COLUMNS
        if life != last:
            restarts.append(f"M{x} 0V{_HEIGHT}")
        group = columns[column, life]
        ends = {min(group, key=_rss), max(group, key=_rss)}
        for point in sorted(ends, key=lambda point: point.time):
            y = round(_HEIGHT * (1 - point.rss_bytes / top))
            line.append(f"{'L' if life == last and line else 'M'}{x} {y}")
            last = life
    level = f"M0 {round(_HEIGHT * (1 - limit / top))}H{_WIDTH}" if limit < top else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="memory over time">'
        f'<path class="restart" d="{"".join(restarts)}"><title>restarts</title></path>'
        f'<path class="limit" d="{level}"><title>limit</title></path><path d="{"".join(line)}"/>'
        f'<text x="4" y="12">{units.format_size(top)}</text>'
        f'<text x="4" y="{_HEIGHT - 4}">{units.local_time(begin)}</text>'
        f'<text x="{_WIDTH - 4}" y="{_HEIGHT - 4}" text-anchor="end">'
        f"{units.local_time(points[-1].time)}</text></svg>"
    )


def _rss(point: Point) -> int:
    return point.rss_bytes


def _escaped(line: str) -> str:
    return html.escape(text.printable(line))
