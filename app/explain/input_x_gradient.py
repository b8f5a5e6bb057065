"""Input times gradient (Shrikumar et al. 2016, https://arxiv.org/abs/1605.01713)."""

from torch import Tensor

from app.types import MethodInfo

INFO = MethodInfo(
    name="input_x_gradient",
    title="Input x Gradient",
    paper="https://arxiv.org/abs/1605.01713",
    cost="one pass, a gradient through the whole network",
)


def compute(inputs: Tensor, input_gradients: Tensor) -> Tensor:
    """What each pixel adds to the logit, to first order, against the mean colour.

    Args:
        inputs: [N, 3, H, W], normalised.
        input_gradients: [N, 3, H, W].

    Returns:
        [N, H, W], signed: the sum over colours of input · gradient.
    """
    return (inputs * input_gradients).sum(dim=1)
