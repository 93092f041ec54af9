"""Memory over time as a sparkline, and as an HTML page of inline SVG without scripts."""

from collections.abc import Mapping, Sequence

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
    begin = points[0].time
    scale = count / max(1.0, max(point.time for point in points) - begin)
    found: dict[int, Point] = {}
    for point in points:
        index = min(count - 1, max(0, int((point.time - begin) * scale)))
        if index not in found or found[index].rss_bytes < point.rss_bytes:
            found[index] = point
    return dict(sorted(found.items()))


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
            parts.append(f"<h2>{_escaped(name)}</h2>{_chart(points, limit)}\n")
    return "".join(parts) + "</body></html>\n"


def _escaped(line: str) -> str:
    return text.printable(line).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _chart(points: Sequence[Point], limit: float) -> str:
    found = columns(points, _WIDTH // 4)
    highest = max(point.rss_bytes for point in found.values())
    top = (limit if highest < limit < 3 * highest else highest) * 1.2 or 1.0
    line, restarts, last = "", "", points[0].life
    for index, point in found.items():
        same = point.life == last and line
        restarts += "" if point.life == last else f"M{index * 4} 0V{_HEIGHT}"
        line += f"{'L' if same else 'M'}{index * 4} {round(_HEIGHT * (1 - point.rss_bytes / top))}"
        last = point.life
    level = f"M0 {round(_HEIGHT * (1 - limit / top))}H{_WIDTH}" if limit < top else ""
    begin, end = (units.local_time(point.time)[:16] for point in (points[0], points[-1]))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="memory over time">'
        f'<path class="restart" d="{restarts}"/><path class="limit" d="{level}"/>'
        f'<path d="{line}"/><text x="4" y="12">{units.format_size(top)}</text>'
        f'<text x="4" y="{_HEIGHT - 4}">{begin}</text>'
        f'<text x="{_WIDTH - 110}" y="{_HEIGHT - 4}">{end}</text></svg>'
    )
