"""KernelSHAP (Lundberg and Lee 2017, https://arxiv.org/abs/1705.07874)."""

import torch
from torch import Tensor

from app.explain.steps import Forward, Found, Row, Steps, Unfinished
from app.explain.superpixels import hide, superpixels
from app.types import MethodInfo

INFO = MethodInfo(
    name="kernelshap",
    title="KernelSHAP",
    paper="https://arxiv.org/abs/1705.07874",
    cost="500 passes",
)

_SAMPLES = 500
_ENDS = 2  # the whole picture and none of it


def passes(_row: Row) -> int:
    """One for each coalition."""
    return _SAMPLES


def explain(row: Row) -> Steps:
    """The Shapley value of each superpixel for the class's logit: theorem 2.

    Coalitions are drawn in pairs of one and its complement, of sizes as the kernel weighs them, so
    that all count the same. The values sum to the difference of the logits with all superpixels
    and with none.

    Returns:
        [K, H, W], signed: the value of each pixel's segment.
    """
    segments = superpixels(row.pixels)
    count = int(segments.max()) + 1
    samples = draw(count, max(min(_SAMPLES, row.budget), _ENDS) - _ENDS, row.seed)
    where, kept = segments.to(row.x.device), samples.to(row.x.device)
    logits: list[Tensor] = []
    for part in row.parts(kept):
        answer = yield Forward(hide(row.x, where, part))
        if answer is None:
            break
        logits.append(answer[:, list(row.class_idx)].cpu())
    measured = torch.cat(logits).double() if logits else torch.empty(0, 1)
    if len(measured) < _ENDS:
        raise Unfinished
    values = shapley(samples[: len(measured)].double(), measured)
    return Found(values.T[:, segments].to(row.x))


def draw(segments: int, samples: int, seed: int) -> Tensor:
    """[2 + samples, segments] of zeros and ones: all, none, then pairs of complements."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.ones(segments), torch.zeros(segments)]
    sizes = torch.arange(1, segments, dtype=torch.float64)
    chances = 1 / (sizes * (segments - sizes))  # kernel weight, times the coalitions of that size
    for _ in range(-(-samples // 2)):
        size = 1 + int(torch.multinomial(chances, 1, generator=generator)) if segments > 1 else 0
        coalition = torch.zeros(segments)
        coalition[torch.randperm(segments, generator=generator)[:size]] = 1
        rows += [coalition, 1 - coalition]
    return torch.stack(rows[: _ENDS + samples])


def shapley(kept: Tensor, logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """The least squares of the kernel, under the constraint that the values sum to the difference.

    Args:
        kept: [m, segments]; the first row is all, the second none.
        logits: [m, K].
        weights: [m - 2] of the other rows; the same for all where they were drawn by the kernel.

    Returns:
        [segments, K].
    """
    full, none = logits[0], logits[1]
    coalitions, gains = kept[_ENDS:], logits[_ENDS:] - none
    # The last value is the difference less the others: put into the equations, and solved for them.
    design = coalitions[:, :-1] - coalitions[:, -1:]
    target = gains - coalitions[:, -1:] * (full - none)
    root = (torch.ones(len(design)) if weights is None else weights).double().sqrt()[:, None]
    others = torch.linalg.pinv(root * design) @ (root * target)
    return torch.cat([others, (full - none - others.sum(dim=0))[None]])
