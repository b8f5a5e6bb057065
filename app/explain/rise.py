"""RISE (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421)."""

import torch
from torch import Tensor
from torch.nn import functional

from app.explain.steps import Forward, Found, Row, Steps
from app.types import MethodInfo

INFO = MethodInfo(
    name="rise",
    title="RISE",
    paper="https://arxiv.org/abs/1806.07421",
    cost="1000 passes",
)

_MASKS = 1000
_CELLS = 7  # of a mask, on each side
_OPEN = 0.5  # the share of cells that let the picture through


def passes(_row: Row) -> int:
    """One for each mask."""
    return _MASKS


def explain(row: Row) -> Steps:
    """Random masks, averaged by the probability that the class has behind them.

    What is averaged is divided by how often a pixel was visible, not by how often it should have
    been: the same for many masks, but of a few hundred the map would mostly show the masks.
    Masks of 7x7 cells are upsampled bilinearly and shifted at random by up to a cell (section 3.2).

    Returns:
        [K, H, W], not negative.
    """
    generator = torch.Generator().manual_seed(row.seed)
    masks = min(_MASKS, row.budget)
    grids = (torch.rand(masks, 1, _CELLS, _CELLS, generator=generator) < _OPEN).float()
    shifts = torch.rand(masks, 2, generator=generator)
    size = row.x.shape[-2:]
    total = row.x.new_zeros(len(row.class_idx), *size)
    visible = row.x.new_zeros(size)
    for part in row.parts(torch.arange(masks)):
        mask = _masks(grids[part], shifts[part], size).to(row.x.device)
        answer = yield Forward(row.x * mask)
        if answer is None:
            break
        scores = row.scores(answer)[:, list(row.class_idx)]  # [m, K]
        total += torch.einsum("mk,mhw->khw", scores, mask[:, 0])
        visible += mask[:, 0].sum(dim=0)
    return Found(total / visible.clamp_min(torch.finfo(visible.dtype).tiny))


def _masks(grids: Tensor, shifts: Tensor, size: torch.Size) -> Tensor:
    """[m, 1, 7, 7] and shifts, [m, 2] in parts of a cell → [m, 1, H, W] in [0, 1]."""
    cell = torch.tensor([-(-side // _CELLS) for side in size])
    larger = ((_CELLS + 1) * cell).tolist()
    fine = functional.interpolate(grids, larger, mode="bilinear", align_corners=False)
    corners = (shifts * cell).long().tolist()
    return torch.stack(
        [m[:, y : y + size[0], x : x + size[1]] for m, (y, x) in zip(fine, corners, strict=True)]
    )
