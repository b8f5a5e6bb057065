"""Evidence becomes a picture. The only file where a map is uint8."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

from app.imaging.colormap import colormap
from app.imaging.png import Levels, palette_png, rgb_png
from app.types import Map, Picture, Pixels

# Chosen on 600x400 pictures: a lossless heatmap is as small as a lossy one, three times as fast,
# and has the exact colours. PNG has an encoder of its own.
_HEATMAP = {"lossless": True, "quality": 0, "method": 1}  # of WebP
_OVERLAY: Mapping[str, Mapping[str, int]] = {
    "webp": {"quality": 85, "method": 2},
    "jpeg": {"quality": 90},
}


@dataclass(frozen=True, slots=True)
class Style:
    """How evidence looks.

    ``alpha`` is the opacity at 1, falling linearly to 0 at 0; ``image_format`` is ``png``, ``webp``
    or, for overlays alone, ``jpeg``, which knows no transparency.
    """

    colors: str
    alpha: float
    image_format: str


def scale(evidence: Map) -> Map:
    """Evidence, in [0, 1], in levels: ``quantize`` cuts them off.

    To lay a map on a picture is linear: before that it has few cells.
    """
    scaled: Map = evidence * 255 + 0.5
    return scaled


def quantize(scaled: Map) -> Levels:
    """The nearest of 256 levels, [height, width], of what ``scale`` gave; of 0, the lowest."""
    return scaled.astype(np.uint8)


def heatmap(levels: Levels, style: Style) -> Picture:
    """The map alone, transparent where there is no evidence: a palette PNG or a lossless WebP.

    Args:
        levels: [height, width], see ``quantize``.
        style: ``png`` or ``webp``.
    """
    palette, opacity = colormap(style.colors), _opacity(style.alpha)
    if style.image_format == "png":
        return _picture("png", levels, palette_png(levels, palette, opacity))
    image = _colored(levels, palette)
    image.putalpha(_mask(levels, opacity))
    return _picture(style.image_format, levels, _encode(image, style.image_format, _HEATMAP))


def overlay(levels: Levels, shown: Pixels, style: Style) -> Picture:
    """The map blended over the picture.

    Args:
        levels: [height, width], see ``quantize``.
        shown: the picture, see ``canvas``.
        style: of the result.
    """
    blend = Image.fromarray(shown)  # a copy
    mask = _mask(levels, _opacity(style.alpha))
    blend.paste(_colored(levels, colormap(style.colors)), mask=mask)
    name = style.image_format
    data = rgb_png(np.asarray(blend)) if name == "png" else _encode(blend, name, _OVERLAY[name])
    return _picture(name, levels, data)


def canvas(picture: Image.Image, size: tuple[int, int]) -> Pixels:
    """What overlays of this width and height are drawn on, [height, width, 3]."""
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(picture)


def _colored(levels: Levels, palette: Levels) -> Image.Image:
    image = Image.fromarray(levels)
    image.putpalette(palette.tobytes())
    return image.convert("RGB")


def _mask(levels: Levels, opacity: Levels) -> Image.Image:
    return Image.fromarray(levels).point(opacity.tolist())  # a third of NumPy's time


@lru_cache(256)
def _opacity(alpha: float) -> Levels:
    """[256], of each level; read-only."""
    opacity = (np.arange(256) * alpha + 0.5).astype(np.uint8)
    opacity.flags.writeable = False  # many may share it
    return opacity


def _encode(image: Image.Image, image_format: str, options: Mapping[str, int]) -> bytes:
    out = BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def _picture(image_format: str, levels: Levels, data: bytes) -> Picture:
    height, width = levels.shape
    return Picture(f"image/{image_format}", width, height, data)
