"""Eigen-CAM (Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299)."""

import torch
from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="eigencam",
    title="Eigen-CAM",
    paper="https://arxiv.org/abs/2008.00299",
    cost="one pass, no gradient",
    class_specific=False,
)


def compute(activations: Tensor) -> Tensor:
    """The activations projected on their first right singular vector.

    A singular vector has no sign; it is chosen so that the map rises where the activations do.
    The map is the same for every class.

    Args:
        activations: [N, C, h, w].

    Returns:
        [N, h, w], signed.
    """
    return project(activations, activations.mean(dim=1))


def project(values: Tensor, towards: Tensor) -> Tensor:
    """Values projected on their first right singular vector, in the sign that agrees with a map.

    Of the two Gram matrices, the smaller one is decomposed, in float64.

    Args:
        values: [N, C, h, w].
        towards: [N, h, w].

    Returns:
        [N, h, w].
    """
    n, channels, height, width = values.shape
    finite = torch.nan_to_num(values)  # a row that is not would stop the whole decomposition
    rows = finite.flatten(2).transpose(1, 2).double()  # [N, hw, C]
    if height * width <= channels:
        vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))  # ascending
        scale = vectors.eigenvalues[:, -1:].clamp(min=0).sqrt()
        projected = vectors.eigenvectors[:, :, -1] * scale  # [N, hw]
    else:
        vectors = torch.linalg.eigh(rows.transpose(1, 2) @ rows)
        projected = torch.einsum("npc,nc->np", rows, vectors.eigenvectors[:, :, -1])
    agreement = (projected * towards.flatten(1)).sum(dim=1, keepdim=True)
    signed = torch.where(agreement < 0, -projected, projected).view(n, height, width)
    return signed.to(values.dtype) + 0 * values.sum(dim=1)  # … and stays so
