"""Integrated Gradients (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365)."""

import numpy as np
import torch

from app.explain.steps import Forward, Found, Gradient, Row, Steps, Unfinished
from app.types import MethodInfo

INFO = MethodInfo(
    name="integrated_gradients",
    title="Integrated Gradients",
    paper="https://arxiv.org/abs/1703.01365",
    cost="50 gradients for each class, and a pass",
)

_STEPS = 50


def passes(row: Row) -> int:
    """One for each step and class, and the baseline."""
    return _STEPS * len(row.class_idx) + 1


def explain(row: Row) -> Steps:
    """Gradients along the straight way from the mean colour to the picture, times that way: eq. 1.

    The integral is Gauss-Legendre's. The residual is what completeness (proposition 1) misses: the
    sum of the map, less the logit, plus that of the baseline.

    Returns:
        [K, H, W], signed: the sum over colours.
    """
    classes = list(row.class_idx)
    steps = max(1, min(_STEPS, (row.budget - 1) // len(classes)))
    nodes, shares = np.polynomial.legendre.leggauss(steps)
    todo = [(k, (node + 1) / 2, share / 2) for node, share in zip(nodes, shares, strict=True)
            for k in range(len(classes))]  # fmt: skip
    mean = row.x.new_zeros(len(classes), *row.x.shape[1:])
    for start in range(0, len(todo), row.slice):
        part = todo[start : start + row.slice]
        alphas = row.x.new_tensor([alpha for _, alpha, _ in part])[:, None, None, None]
        gradient = yield Gradient(alphas * row.x, [classes[k] for k, _, _ in part])
        if gradient is None:
            raise Unfinished
        for (k, _, share), value in zip(part, gradient, strict=True):
            mean[k] += share * value
    baseline = yield Forward(torch.zeros_like(row.x))
    if baseline is None:
        raise Unfinished
    maps = (row.x * mean).sum(dim=1)
    missed = maps.sum(dim=(1, 2)) - (row.logits - baseline[0])[classes]
    return Found(maps, missed.tolist())
