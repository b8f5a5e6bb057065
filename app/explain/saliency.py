"""Saliency, the vanilla gradient (Simonyan et al. 2013, https://arxiv.org/abs/1312.6034)."""

from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="saliency",
    title="Saliency",
    paper="https://arxiv.org/abs/1312.6034",
    cost="one pass, a gradient through the whole network",
)


def compute(input_gradients: Tensor) -> Tensor:
    """The largest absolute gradient over the colours of each pixel (section 3).

    Args:
        input_gradients: [N, 3, H, W].

    Returns:
        [N, H, W], not negative.
    """
    return input_gradients.abs().amax(dim=1)
