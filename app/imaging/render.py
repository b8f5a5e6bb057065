"""Evidence becomes a picture. The only file where a map is uint8."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image

from app.imaging.colormap import colormap
from app.types import Map, Picture

Table = np.ndarray[tuple[int], np.dtype[np.uint8]]

_Options = Mapping[str, int]

# Chosen on 600x400 pictures: the next PNG level saves 5 % of the bytes; a lossless heatmap is as
# small as a lossy one, three times as fast, and has the exact colours.
_HEATMAP: Mapping[str, _Options] = {
    "png": {"compress_level": 1},
    "webp": {"lossless": True, "quality": 0, "method": 1},
}
_OVERLAY: Mapping[str, _Options] = {
    "png": {"compress_level": 1},
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


def heatmap(evidence: Map, style: Style) -> Picture:
    """The map alone, transparent where there is no evidence: a palette PNG or a lossless WebP.

    Args:
        evidence: float32 [height, width] in [0, 1].
        style: ``png`` or ``webp``.
    """
    image, opacity = _indexed(evidence, style.colors), _opacity(style.alpha)
    if style.image_format == "png":
        return _encode(image, "png", {**_HEATMAP["png"], "transparency": opacity.tobytes()})
    picture = image.convert("RGB")
    picture.putalpha(_through(image, opacity))
    return _encode(picture, style.image_format, _HEATMAP[style.image_format])


def overlay(evidence: Map, picture: Image.Image, style: Style) -> Picture:
    """The map blended over the picture, which is resized to the map's size if it has another.

    Args:
        evidence: float32 [height, width] in [0, 1].
        picture: RGB, without metadata: Pillow would copy them into the result.
        style: of the result.
    """
    image = _indexed(evidence, style.colors)
    base = picture if picture.size == image.size else _resize(picture, image.size)
    mask = _through(image, _opacity(style.alpha))
    blend = Image.composite(image.convert("RGB"), base, mask)
    return _encode(blend, style.image_format, _OVERLAY[style.image_format])


def _resize(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _indexed(evidence: Map, colors: str) -> Image.Image:
    levels = (evidence * 255 + 0.5).astype(np.uint8)
    image = Image.fromarray(levels)
    image.putpalette(colormap(colors).tobytes())
    return image


def _opacity(alpha: float) -> Table:
    return (np.arange(256) * alpha + 0.5).astype(np.uint8)


def _through(indexed: Image.Image, table: Table) -> Image.Image:
    return Image.fromarray(table[np.asarray(indexed)])


def _encode(image: Image.Image, image_format: str, options: Mapping[str, object]) -> Picture:
    out = BytesIO()
    image.save(out, image_format, **options)
    return Picture(f"image/{image_format}", image.width, image.height, out.getvalue())
