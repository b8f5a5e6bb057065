"""HiResCAM (Draelos and Carin 2020, https://arxiv.org/abs/2011.08891)."""

from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="hirescam",
    title="HiResCAM",
    paper="https://arxiv.org/abs/2011.08891",
    cost="one pass",
)


def compute(activations: Tensor, gradients: Tensor) -> Tensor:
    """Each place weighted by its own gradient, before the ReLU.

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].

    Returns:
        [N, h, w], signed: the sum over channels of gradient · activation.
    """
    return (gradients * activations).sum(dim=1)
