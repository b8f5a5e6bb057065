"""A raw map becomes evidence between 0 and 1, and says so where there is none."""

import numpy as np

from app.types import Map

NO_POSITIVE_EVIDENCE = "no_positive_evidence"
FLAT = 1e-6  # relief below this part of the height is the rounding of float32 sums


def normalize(raw: Map, *, relu: bool) -> tuple[Map, tuple[str, ...]]:
    """Min-max to [0, 1], after a ReLU where the method has one.

    A map that is constant, at whatever height, or has nothing above zero, tells no place from
    another: it stays blank instead of being stretched to look like evidence, and is flagged.

    Args:
        raw: float32 [h, w], finite.
        relu: whether the method drops negative values.

    Returns:
        Float32 [h, w] in [0, 1], and the flags.
    """
    values = raw.astype(np.float64)  # the range of float32 values may not fit float32
    if relu:
        values = np.maximum(values, 0)
    low, high = values.min(), values.max()
    if high <= 0 or high - low <= FLAT * high:
        return np.zeros(raw.shape, np.float32), (NO_POSITIVE_EVIDENCE,)
    return ((values - low) / (high - low)).astype(np.float32), ()
