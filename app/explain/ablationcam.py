"""Ablation-CAM (Desai and Ramaswamy 2020, https://doi.org/10.1109/WACV45572.2020.9093360)."""

from collections.abc import Generator

import torch
from torch import Tensor

from app.explain.steps import Found, Head, Pass, Row, Steps, Unsuited
from app.types import MethodInfo

INFO = MethodInfo(
    name="ablationcam",
    title="Ablation-CAM",
    paper="https://doi.org/10.1109/WACV45572.2020.9093360",
    cost="a pass through the head for each channel; none where that is pooling and linear",
    needs=("activations",),
)


def passes(row: Row) -> int:
    """One for each channel, through the head alone; none where there is a closed form."""
    return 0 if row.linear is not None else row.activations.shape[1]


def explain(row: Row) -> Steps:
    """Channels weighted by what the class's logit loses, in parts of it, when they are zero.

    The weight is (y - y_k) / |y|: with the paper's y, a negative logit would turn the map around.
    On global average pooling and a linear layer y - y_k is W[c, k] · mean(A_k).

    Returns:
        [K, h, w]: the weighted sum of the activations, before the ReLU.
    """
    channels = row.activations[0]  # [C, h, w]
    chosen = list(row.class_idx)
    if row.linear is not None:
        order = torch.arange(len(channels), device=channels.device)
        losses = (row.linear[chosen] * channels.mean(dim=(1, 2))).T  # [C, K]
    else:
        order, losses = yield from _measure(row, chosen)
    weights = losses / row.logits[chosen].abs()
    return Found(torch.einsum("ck,chw->khw", weights, channels[order]))


def _measure(row: Row, chosen: list[int]) -> Generator[Pass, Tensor | None, tuple[Tensor, Tensor]]:
    channels = row.activations[0]
    if row.ablate is None:
        raise Unsuited("ablationcam needs a layer at which the model can be cut in two")
    order = channels.abs().mean(dim=(1, 2)).argsort(descending=True, stable=True)[: row.budget]
    losses: list[Tensor] = []
    for part in row.parts(order):
        answer = yield Head(row.ablate(part.tolist()))
        if answer is None:
            break
        losses.append(row.logits[chosen] - answer[:, chosen])
    measured = torch.cat(losses) if losses else row.logits.new_zeros(0, len(chosen))
    return order[: len(measured)], measured
