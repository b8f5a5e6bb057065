"""Pictures with parts of them taken away: what does the model say then?

All on the model's own input, uint8 [H, W, 3].
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from app.imaging.geometry import lay
from app.types import Box, Curve, Map, Pixels

STEPS = 16  # of a curve

_BLUR = 12  # the radius is this part of the shorter side


def blur(pixels: Pixels) -> Pixels:
    """So strongly that no object is left."""
    radius = min(pixels.shape[:2]) / _BLUR
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def blend(pixels: Pixels, other: Pixels, share: Map) -> Pixels:
    """One picture, and as much of another as ``share``, [H, W] in [0, 1], says."""
    mixed = pixels + share[:, :, None] * (other.astype(np.float32) - pixels)
    rounded: Pixels = (mixed + 0.5).astype(np.uint8)
    return rounded


def ranking(raw: Map, height: int, width: int) -> NDArray[np.intp]:
    """The pixels of the input, [H·W], the hottest first."""
    box = Box(0, 0, width, height)
    laid = lay(raw, box, (width, height), (width, height))
    return np.argsort(-laid.ravel(), kind="stable")


def frames(start: Pixels, end: Pixels, order: NDArray[np.intp]) -> list[Pixels]:
    """From one picture to another, pixel after pixel in an order, in ``STEPS`` equal steps."""
    height, width = start.shape[:2]
    found = []
    for step in range(STEPS + 1):
        frame = start.reshape(-1, 3).copy()
        done = order[: round(len(order) * step / STEPS)]
        frame[done] = end.reshape(-1, 3)[done]
        found.append(frame.reshape(height, width, 3))
    return found


def curve(scores: list[float], random_scores: list[float]) -> Curve:
    """A curve, and the areas under it and under the random one, by trapezoids."""
    return Curve(tuple(scores), _area(scores), _area(random_scores))


def _area(scores: list[float]) -> float:
    heights = np.array(scores)
    return float((heights[:-1] + heights[1:]).mean() / 2)
