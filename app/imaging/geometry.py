"""Where things lie: sizes, crops, and a coarse map laid on the upright upload.

Coordinates are continuous pixels of the upright upload: pixel i covers [i, i + 1).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.types import Box, Map, Preprocess, View

Size = tuple[int, int]  # width, height

# Weights that are kept, and how many numbers each has at most: 4 MB in all. Most uploads have one
# of few shapes, and to make weights is a dozen steps of NumPy, each with a wait for Python's lock
# where other threads are busy.
_KEPT, _FEW = 64, 2**14
_DIGITS = 9  # of a pixel: beyond them, uploads of one shape differ by rounding


def resized(width: int, height: int, spec: Preprocess) -> Size:
    """The size after ``spec.resize``, rounded as torchvision's ``Resize`` rounds."""
    if isinstance(spec.resize, tuple):
        return spec.resize[1], spec.resize[0]
    short, long = sorted((width, height))
    scaled = int(spec.resize * long / short)
    return (spec.resize, scaled) if width <= height else (scaled, spec.resize)


def crop_offset(size: Size, spec: Preprocess) -> Size:
    """Left and top of the centre crop in the resized picture, negative where it must be padded.

    Rounded as torchvision's ``CenterCrop`` rounds.
    """
    return _offset(size[0], spec.crop[1]), _offset(size[1], spec.crop[0])


def _offset(side: int, crop: int) -> int:
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2.0)


def seen(width: int, height: int, spec: Preprocess, view: View) -> Box:
    """The part of the upright upload that the model sees."""
    if view == "full":
        return Box(0.0, 0.0, float(width), float(height))
    w, h = resized(width, height, spec)
    left, top = crop_offset((w, h), spec)
    across, down = width / w, height / h  # upload pixels per resized pixel
    return Box(
        left * across,
        top * down,
        (left + spec.crop[1]) * across,
        (top + spec.crop[0]) * down,
    )


def fit(width: int, height: int, longest: int) -> Size:
    """The picture's size with its longer side at most ``longest``; never enlarged, never 0."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def lay(values: Map, box: Box, upload: Size, out: Size) -> Map:
    """Lay a map on the whole upload: half-pixel bilinear, as ``align_corners=False``.

    Args:
        values: [h, w], covering ``box``.
        box: the part of the upload that the map covers.
        upload: the upload's width and height.
        out: width and height of the result.

    Returns:
        [out height, out width]; 0 outside the box.
    """
    across = _weights(values.shape[1], *_span(box.x0, box.x1, upload[0], out[0]), out[0])
    down = _weights(values.shape[0], *_span(box.y0, box.y1, upload[1], out[1]), out[1])
    laid: Map = down @ (values @ across.T)
    return laid


def shrink(values: Map, longest: int) -> Map:
    """Average areas of a map, [h, w], so that no side has more than ``longest`` cells."""
    height, width = values.shape
    if max(height, width) <= longest:
        return values
    across, down = fit(width, height, longest)
    averaged: Map = (_shares(height, down) @ values @ _shares(width, across).T).astype(np.float32)
    return averaged


def _shares(cells: int, out: int) -> NDArray[np.float64]:
    """[out, cells]: how much of each output cell lies in each cell of the map."""
    edges = np.arange(out + 1)[:, None] * (cells / out)
    cell = np.arange(cells)
    overlap = np.minimum(edges[1:], cell + 1) - np.maximum(edges[:-1], cell)
    shares: NDArray[np.float64] = overlap.clip(min=0) * (out / cells)
    return shares


def _span(start: float, stop: float, upload: int, out: int) -> tuple[float, float]:
    """A span of the upload in pixels of the result; equal for uploads of one shape."""
    return round(start * out / upload, _DIGITS), round(stop * out / upload, _DIGITS)


def _weights(cells: int, start: float, stop: float, out: int) -> NDArray[np.float32]:
    """[out, cells]: what each cell adds to each output pixel; nothing outside [start, stop)."""
    make = _kept_weights if cells * out <= _FEW else _new_weights
    return make(cells, start, stop, out)


def _new_weights(cells: int, start: float, stop: float, out: int) -> NDArray[np.float32]:
    centre = np.arange(0.5, out)
    inside = _between(centre, start, stop)
    place = (centre[inside] - start) / (stop - start) * cells - 0.5
    near = np.subtract.outer(np.minimum(np.maximum(place, 0), cells - 1), np.arange(cells))
    np.subtract(1, np.abs(near, out=near), out=near)
    weights = np.zeros((out, cells), np.float32)
    np.maximum(near, 0, out=weights[inside], casting="same_kind")
    weights.flags.writeable = False  # they may be kept
    return weights


_kept_weights = lru_cache(_KEPT)(_new_weights)


def _between(centre: NDArray[np.float64], start: float, stop: float) -> slice:
    """Of rising numbers those in [start, stop), but one at least: the nearest."""
    first, end = centre.searchsorted((start, stop)).tolist()
    if first == end:  # it is narrower than a pixel of the result
        first = int(np.abs(centre - (start + stop) / 2).argmin())
    return slice(first, max(end, first + 1))
