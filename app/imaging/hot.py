"""The hot parts of a map as boxes and contours: of use without looking at the map."""

import numpy as np

from app.imaging.geometry import Size, fit, lay
from app.types import Box, HotSpot, Map

_GRID = 256  # cells on the longest side, on which parts are found
_SIMPLER = 0.5  # cells that a contour may be off by, for fewer points
_MAX_SPOTS = 20


def hot_spots(evidence: Map, crop: Box, upload: Size, threshold: float) -> tuple[HotSpot, ...]:
    """The connected parts of a map that are at least as hot as a threshold, the hottest first.

    Args:
        evidence: float32 [h, w] in [0, 1], covering ``crop``.
        crop: the part of the upload that the model saw.
        upload: its width and height.
        threshold: over 0, up to 1.

    Returns:
        At most 20, in pixels of the upright upload.
    """
    from scipy import ndimage  # half a second: only for those who ask

    cells = fit(*upload, _GRID)
    laid = lay(evidence, crop, upload, cells)
    labels, count = ndimage.label(laid >= threshold, structure=np.ones((3, 3)))
    peaks = ndimage.maximum(laid, labels, range(1, count + 1))
    scale = np.array([upload[0] / cells[0], upload[1] / cells[1]])
    order = np.argsort(-np.asarray(peaks), kind="stable")[:_MAX_SPOTS]
    places = ndimage.find_objects(labels)
    return tuple(
        HotSpot(
            box=_box(places[i], scale),
            peak=float(peaks[i]),
            contour=_contour(labels == i + 1, scale),
        )
        for i in order.tolist()
    )


def _box(place: tuple[slice, slice], scale: Map) -> Box:
    down, across = place
    return Box(
        float(across.start * scale[0]), float(down.start * scale[1]),
        float(across.stop * scale[0]), float(down.stop * scale[1]),
    )  # fmt: skip


def _contour(
    part: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]", scale: Map
) -> tuple[tuple[float, float], ...]:
    """The outline of a part; holes are left out."""
    from skimage.measure import approximate_polygon, find_contours

    padded = np.pad(part.astype(np.float32), 1)
    outline = max(find_contours(padded, 0.5), key=len)
    # find_contours counts from the middle of the first cell, which is padding.
    points = (approximate_polygon(outline, _SIMPLER)[:, ::-1] - 0.5) * scale
    return tuple((float(x), float(y)) for x, y in points)
