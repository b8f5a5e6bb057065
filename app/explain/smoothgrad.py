"""SmoothGrad (Smilkov et al. 2017, https://arxiv.org/abs/1706.03825)."""

import torch

from app.explain.steps import Found, Gradient, Row, Steps
from app.types import MethodInfo

INFO = MethodInfo(
    name="smoothgrad",
    title="SmoothGrad",
    paper="https://arxiv.org/abs/1706.03825",
    cost="25 gradients for each class",
)

_SAMPLES = 25
_NOISE = 0.15  # standard deviation, in parts of the picture's range


def passes(row: Row) -> int:
    """One for each noisy picture and class."""
    return _SAMPLES * len(row.class_idx)


def explain(row: Row) -> Steps:
    """The gradient, averaged over noisy copies of the picture; of it, as in saliency, the largest.

    Every class sees the same noise.

    Returns:
        [K, H, W], not negative.
    """
    generator = torch.Generator().manual_seed(row.seed)
    classes = len(row.class_idx)
    samples = max(1, min(_SAMPLES, row.budget // classes))
    spread = _NOISE * float(row.x.max() - row.x.min())
    total = row.x.new_zeros(classes, *row.x.shape[1:])
    for _ in range(samples):
        noise = torch.randn(row.x.shape, generator=generator).to(row.x.device) * spread
        for start in range(0, classes, row.slice):
            part = row.class_idx[start : start + row.slice]
            gradient = yield Gradient((row.x + noise).repeat(len(part), 1, 1, 1), part)
            if gradient is None:
                return Found(total.abs().amax(dim=1))
            total[start : start + len(part)] += gradient / samples
    return Found(total.abs().amax(dim=1))
