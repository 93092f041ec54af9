"""The memory of one program over time as a PNG, drawn by Pillow (the extra "png")."""

import importlib.util
import io
from collections.abc import Sequence

from upkeep import page, units
from upkeep.samples import Point

_WIDTH, _HEIGHT = 800, 300


def draw(points: Sequence[Point], limit: float) -> bytes | None:
    """The picture; None without Pillow. Names are left to the caption: no font has them all."""
    if importlib.util.find_spec("PIL") is None:
        return None
    from PIL import Image, ImageDraw

    chart = page.chart(points, limit, _WIDTH, _HEIGHT)
    image = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    for x in chart.restarts:
        pen.line([(x, 0), (x, _HEIGHT)], fill="silver")
    if chart.limit is not None:
        pen.line([(0, chart.limit), (_WIDTH, chart.limit)], fill="red")
    for line in chart.lines:
        pen.line(line, fill="royalblue", width=2)
    begin, end = (units.local_time(point.time)[:16] for point in (points[0], points[-1]))
    pen.text((4, 4), units.format_size(chart.top), fill="dimgray")
    pen.text((4, _HEIGHT - 16), begin, fill="dimgray")
    pen.text((_WIDTH - 110, _HEIGHT - 16), end, fill="dimgray")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
