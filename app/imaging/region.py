"""Does the evidence lie inside a region: on the mole, or on the ruler beside it?

Shares are counted on a grid over the upright upload, of at most 512 cells a side; a region covers a
part of each cell.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import InvalidOption
from app.imaging.decode import BLACK, decode
from app.imaging.geometry import Size, fit, lay
from app.types import Box, Map, RegionReport

_GRID = 512
_INSIDE = 127  # a mask's grey above this is inside


def box_region(box: Box, upload: Size) -> Map:
    """How much of each cell a box covers, [h, w] in [0, 1].

    Raises:
        InvalidOption: the box lies outside the upload.
    """
    width, height = upload
    if box.x0 >= width or box.y0 >= height or box.x1 <= 0 or box.y1 <= 0:
        detail = f"lies outside the picture, which is {width}x{height}"
        raise InvalidOption.of("region", detail)
    across, down = fit(width, height, _GRID)
    columns = _covered(box.x0, box.x1, width, across)
    rows = _covered(box.y0, box.y1, height, down)
    cover: Map = rows[:, None] * columns
    return cover


def mask_region(data: bytes, upload: Size, max_pixels: int) -> Map:
    """The same for a mask: a picture, resized to the upload, over 127 inside; transparency is not.

    Raises:
        CamserveError: it is no picture.
    """
    decoded = decode(data, max_pixels=max_pixels, needed=lambda w, h: (w, h), background=BLACK)
    inside = decoded.image.convert("L").point(lambda grey: 255 if grey > _INSIDE else 0)
    resized = inside.resize(fit(*upload, _GRID), Image.Resampling.BOX)
    cover: Map = np.asarray(resized, np.float32) / np.float32(255)
    return cover


def measure(raw: Map, crop: Box, upload: Size, cover: Map) -> RegionReport | None:
    """Where the positive evidence lies.

    Args:
        raw: [h, w], covering ``crop``.
        crop: the part of the upload that the model saw.
        upload: its width and height.
        cover: of the region.

    Returns:
        None where there is no positive evidence.
    """
    cells = cover.shape[1], cover.shape[0]
    evidence = lay(np.maximum(raw, 0), crop, upload, cells)
    total = float(evidence.sum(dtype=np.float64))
    if total <= 0:
        return None
    seen = lay(np.ones((1, 1), np.float32), crop, upload, cells)
    inside = float((evidence * cover).sum(dtype=np.float64)) / total
    area = float((seen * cover).sum(dtype=np.float64) / seen.sum(dtype=np.float64))
    return RegionReport(
        inside_share=inside,
        area_share=area,
        lift=inside / area if area else None,
        peak_inside=bool(cover.flat[evidence.argmax()] > _INSIDE / 255),
    )


def at_input(cover: Map, crop: Box, upload: Size, size: Size) -> Map:
    """A region as the model's input shows it: [H, W] in [0, 1], 0 outside the upload."""
    columns, in_x = _nearest(crop.x0, crop.x1, upload[0], cover.shape[1], size[0])
    rows, in_y = _nearest(crop.y0, crop.y1, upload[1], cover.shape[0], size[1])
    shown: Map = cover[rows[:, None], columns] * in_y[:, None] * in_x
    return shown


def _covered(start: float, stop: float, side: int, cells: int) -> Map:
    edges = np.arange(cells + 1) * (side / cells)
    overlap = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
    covered: Map = (overlap.clip(min=0) * (cells / side)).astype(np.float32)
    return covered


def _nearest(
    start: float, stop: float, side: int, cells: int, out: int
) -> tuple[NDArray[np.intp], Map]:
    place = start + (np.arange(out) + 0.5) * (stop - start) / out
    inside = ((place >= 0) & (place < side)).astype(np.float32)
    index = np.clip(np.floor(place * cells / side), 0, cells - 1).astype(np.intp)
    return index, inside
