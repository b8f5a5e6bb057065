"""Figures as a table, as JSON, and as a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from PIL import Image, ImageDraw, ImageFont

from app.evaluation.evaluate import Figures
from app.imaging.colormap import colormap

_HEAD = (
    "| model | method | pointing | inside | deletion (random) | insertion (random) | drop"
    " | increase |"
)
_ROW, _LABEL, _BAR, _GAP = 22, 190, 260, 60
_PLOTTED = ("pointing", "inside", "insertion", "deletion")


def as_table(figures: Sequence[Figures]) -> str:
    """Markdown, a line each."""
    lines = [_HEAD, "|---" * _HEAD.count(" | ") + "|---|"]
    lines += [
        f"| {f.model} | `{f.method}` | {f.pointing:.2f} | {f.inside:.2f}"
        f" | {f.deletion:.2f} ({f.random_deletion:.2f})"
        f" | {f.insertion:.2f} ({f.random_insertion:.2f}) | {f.drop:.2f} | {f.increase:.2f} |"
        for f in figures
    ]
    return "\n".join(lines)


def as_json(figures: Sequence[Figures]) -> str:
    """A list of objects."""
    return json.dumps([asdict(f) for f in figures], indent=1)


def as_plot(figures: Sequence[Figures]) -> Image.Image:
    """Bars: a row for each method, a column for each of four figures."""
    width = _LABEL + len(_PLOTTED) * (_BAR // 2 + _GAP)
    picture = Image.new("RGB", (width, _ROW * (len(figures) + 2)), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    for column, name in enumerate(_PLOTTED):
        left = _LABEL + column * (_BAR // 2 + _GAP)
        draw.text((left, 6), f"{name}", "black", font)
        color = tuple(colormap("viridis")[40 + 55 * column].tolist())
        for row, figure in enumerate(figures, start=1):
            top, value = _ROW * row + 6, getattr(figure, name)
            draw.rectangle((left, top, left + value * _BAR / 2, top + _ROW - 8), color)
            draw.text((left + value * _BAR / 2 + 4, top), f"{value:.2f}", "black", font)
    for row, figure in enumerate(figures, start=1):
        draw.text((6, _ROW * row + 6), f"{figure.model} {figure.method}", "black", font)
    return picture
