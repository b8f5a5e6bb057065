"""Layer-CAM (Jiang et al. 2021, https://doi.org/10.1109/TIP.2021.3089943)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from app.types import MethodInfo

INFO = MethodInfo(
    name="layercam",
    title="Layer-CAM",
    paper="https://doi.org/10.1109/TIP.2021.3089943",
    cost="one pass",
)

_GAIN = 2.0  # gamma of eq. 9


def compute(activations: Tensor, gradients: Tensor) -> Tensor:
    """Each place weighted by its own positive gradient.

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].

    Returns:
        [N, h, w]: the sum over channels of relu(gradient) · activation.
    """
    return (gradients.clamp(min=0) * activations).sum(dim=1)


def fuse(maps: Sequence[Tensor]) -> Tensor:
    """Maps of several layers, scaled by eq. 9 so that early ones become visible; the maximum wins.

    The paper scales its early stages alone; here each layer is scaled, whatever else is asked for.

    Args:
        maps: for each layer [N, h, w], each of its own size.

    Returns:
        [N, h, w] of the finest one, from 0 to tanh(2).
    """
    finest = max((m.shape[-2:] for m in maps), key=lambda shape: shape[0] * shape[1])
    return torch.stack([_scale(m, finest) for m in maps]).amax(dim=0)


def _scale(values: Tensor, size: torch.Size) -> Tensor:
    positive = values.clamp(min=0)
    highest = positive.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
    scaled = torch.tanh(_GAIN * positive / highest)
    resized = functional.interpolate(scaled[:, None], size, mode="bilinear", align_corners=False)
    return resized[:, 0]
