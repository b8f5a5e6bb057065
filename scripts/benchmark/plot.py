"""The rates as bars: for each model and cell a panel, for each server a bar with its extremes."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from benchmark.report import number, title
from benchmark.summary import Line

_LABEL, _BAR, _VALUE, _ROW, _HEAD, _GAP = 170, 330, 70, 24, 30, 14
_OURS, _THEIRS = "#b63655", "#7a8aa0"


def as_plot(lines: Sequence[Line]) -> Image.Image:
    """The closed loops with the most usual cell of each model."""
    panels = panels_of(lines)
    height = sum(_HEAD + _ROW * len(panel) + _GAP for panel in panels)
    picture = Image.new("RGB", (_LABEL + _BAR + _VALUE, max(height, 1)), "white")
    draw = ImageDraw.Draw(picture)
    top = 0
    for panel in panels:
        _draw_panel(draw, panel, top)
        top += _HEAD + _ROW * len(panel) + _GAP
    return picture


def panels_of(lines: Sequence[Line]) -> list[list[Line]]:
    """For each model its first closed cell of each kind of request."""
    panels: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        if line.offered is None:
            panels.setdefault((line.model, line.cell.partition(",")[0]), []).append(line)
    return [[line for line in panel if line.cell == panel[0].cell] for panel in panels.values()]


def _draw_panel(draw: ImageDraw.ImageDraw, panel: Sequence[Line], top: int) -> None:
    font = ImageFont.load_default(13)
    heading = f"{panel[0].model}: {panel[0].cell}, answers a second"
    draw.text((6, top + 8), heading, "black", ImageFont.load_default(15))
    scale = _BAR / max(*(line.rate.high for line in panel), 1e-9)
    for row, line in enumerate(panel):
        y = top + _HEAD + _ROW * row
        ours = line.contender.startswith("camserve")
        draw.text((6, y + 3), title(line.contender), "black", font)
        end = _LABEL + line.rate.median * scale
        draw.rectangle((_LABEL, y + 2, end, y + _ROW - 5), _OURS if ours else _THEIRS)
        low, high = (_LABEL + value * scale for value in (line.rate.low, line.rate.high))
        middle = y + _ROW / 2 - 1
        draw.line((low, middle, high, middle), "black", 1)
        draw.text((max(end, high) + 6, y + 3), number(line.rate.median), "black", font)
