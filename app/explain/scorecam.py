"""Score-CAM (Wang et al. 2020, https://arxiv.org/abs/1910.01279)."""

import torch
from torch import Tensor
from torch.nn import functional

from app.explain.steps import Forward, Found, Row, Steps
from app.types import MethodInfo

INFO = MethodInfo(
    name="scorecam",
    title="Score-CAM",
    paper="https://arxiv.org/abs/1910.01279",
    cost="a pass for each channel",
    needs=("activations",),
)


def passes(row: Row) -> int:
    """One for each channel."""
    return row.activations.shape[1]


def explain(row: Row) -> Steps:
    """Channels weighted by the class's logit when they alone let the picture through: algorithm 1.

    Each channel, upsampled (half-pixel bilinear) and then stretched to [0, 1], masks the normalised
    picture; weights are the softmax of the logits over the channels. The logit of the baseline,
    which the paper subtracts, cancels out in that softmax. Channels without any relief hide all of
    the picture, and share one pass. The strongest come first, so that a stop loses the least.

    Returns:
        [K, h, w]: the weighted sum of the activations, before the ReLU.
    """
    channels = row.activations[0]  # [C, h, w]
    order, silent = _strongest_first(channels)
    logits = [row.x.new_empty(0, len(row.class_idx))]
    for part in row.parts(order[: row.budget]):
        answer = yield Forward(row.x * _masks(channels[part], row.x.shape[-2:]))
        if answer is None:
            break
        logits.append(answer[:, list(row.class_idx)])
    if len(silent) and sum(map(len, logits)) == len(order):
        answer = yield Forward(torch.zeros_like(row.x))
        if answer is not None:
            logits.append(answer[:, list(row.class_idx)].expand(len(silent), -1))
    weights = torch.softmax(torch.cat(logits), dim=0)  # [channels seen, K]
    seen = channels[torch.cat([order, silent])[: len(weights)]]
    return Found(torch.einsum("ck,chw->khw", weights, seen))


def _strongest_first(channels: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the channels with some relief, and of those with none."""
    relief = channels.amax(dim=(1, 2)) - channels.amin(dim=(1, 2))
    order = relief.argsort(descending=True, stable=True)
    return order[relief[order] > 0], order[relief[order] == 0]


def _masks(channels: Tensor, size: torch.Size) -> Tensor:
    """[m, h, w] → [m, 1, H, W] in [0, 1]."""
    fine = functional.interpolate(channels[:, None], size, mode="bilinear", align_corners=False)
    low = fine.amin(dim=(2, 3), keepdim=True)
    return (fine - low) / (fine.amax(dim=(2, 3), keepdim=True) - low)
