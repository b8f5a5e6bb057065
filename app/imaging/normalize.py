"""A raw map becomes evidence between 0 and 1, and says so where there is none."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.types import Map

NO_POSITIVE_EVIDENCE = "no_positive_evidence"
LOW_CONTRAST = "low_contrast"
FLAT = 1e-6  # relief below this part of the height is the rounding of float32 sums
FAINT = 0.1  # relief below this part of the height is stretched, and flagged


@dataclass(frozen=True, slots=True)
class Range:
    """The values that become 0 and 1."""

    low: float
    high: float


def extent(raws: Iterable[Map], *, relu: bool) -> Range:
    """The common range of several maps, so that a weak one looks weak beside a strong one."""
    values = [_evidence(raw, relu=relu) for raw in raws]
    return Range(min(float(v.min()) for v in values), max(float(v.max()) for v in values))


def normalize(raw: Map, *, relu: bool, within: Range | None = None) -> tuple[Map, tuple[str, ...]]:
    """Min-max to [0, 1], after a ReLU where the method has one.

    A map that is constant, at whatever height, or has nothing above zero, tells no place from
    another: it stays blank instead of being stretched to look like evidence, and is flagged.

    Args:
        raw: float32 [h, w], finite.
        relu: whether the method drops negative values.
        within: the range of several maps; the map's own, where that is None.

    Returns:
        Float32 [h, w] in [0, 1], and the flags.
    """
    values = _evidence(raw, relu=relu)
    low, high = float(values.min()), float(values.max())
    if high <= 0 or high - low <= FLAT * high:
        return np.zeros(raw.shape, np.float32), (NO_POSITIVE_EVIDENCE,)
    flags = (LOW_CONTRAST,) if high - low < FAINT * high else ()
    scale = within or Range(low, high)
    return ((values - scale.low) / (scale.high - scale.low)).astype(np.float32), flags


def grad_cam_scale(values: Map) -> Map:
    """Min-max with the constant that pytorch-grad-cam has; it does so twice, see ``drawing.py``."""
    lifted = values - values.min()
    scaled: Map = lifted / (np.float32(1e-7) + lifted.max())
    return scaled


def _evidence(raw: Map, *, relu: bool) -> NDArray[np.float64]:
    values = raw.astype(np.float64)  # the range of float32 values may not fit float32
    return np.maximum(values, 0) if relu else values
