"""LIME (Ribeiro et al. 2016, https://arxiv.org/abs/1602.04938)."""

import torch
from torch import Tensor

from app.explain.steps import Forward, Found, Row, Steps
from app.explain.superpixels import hide, superpixels
from app.types import MethodInfo

INFO = MethodInfo(
    name="lime",
    title="LIME",
    paper="https://arxiv.org/abs/1602.04938",
    cost="500 passes",
)

_SAMPLES = 500
_KERNEL_WIDTH = 0.25
_RIDGE = 1.0


def passes(_row: Row) -> int:
    """One for each sample."""
    return _SAMPLES


def explain(row: Row) -> Steps:
    """A linear model of which superpixels raise the class's probability: section 3.

    Superpixels are hidden at random, half of them; a sample weighs exp(-d²/0.25²), with d the
    cosine distance to the whole picture; the model is ridge regression.

    Returns:
        [K, H, W], signed: the coefficient of each pixel's segment.
    """
    segments = superpixels(row.pixels)
    samples = draw(int(segments.max()) + 1, min(_SAMPLES, row.budget), row.seed)
    where, kept = segments.to(row.x.device), samples.to(row.x.device)
    scores: list[Tensor] = []
    for part in row.parts(kept):
        answer = yield Forward(hide(row.x, where, part))
        if answer is None:
            break
        scores.append(row.scores(answer)[:, list(row.class_idx)].cpu())
    measured = torch.cat(scores).double()  # [m, K]
    coefficients = fit(samples[: len(measured)].double(), measured)
    return Found(coefficients.T[:, segments].to(row.x))


def draw(segments: int, samples: int, seed: int) -> Tensor:
    """[samples, segments] of zeros and ones; the first is the whole picture."""
    generator = torch.Generator().manual_seed(seed)
    kept = (torch.rand(samples, segments, generator=generator) < 0.5).float()  # noqa: PLR2004 - half
    kept[0] = 1
    return kept


def fit(kept: Tensor, scores: Tensor) -> Tensor:
    """Weighted ridge regression with an intercept, that is not shrunk.

    Args:
        kept: [m, segments].
        scores: [m, K].

    Returns:
        [segments, K].
    """
    share = kept.mean(dim=1)
    distance = 1 - share.sqrt()  # the cosine of a sample with all ones is sqrt(kept / all)
    weight = torch.exp(-((distance / _KERNEL_WIDTH) ** 2))[:, None]
    total = weight.sum()
    centred = kept - (weight * kept).sum(dim=0) / total
    target = scores - (weight * scores).sum(dim=0) / total
    gram = centred.T @ (weight * centred)
    gram.diagonal().add_(_RIDGE)
    coefficients: Tensor = torch.linalg.solve(gram, centred.T @ (weight * target))
    return coefficients
