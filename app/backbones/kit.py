"""What a device's library offers for a graph to be rewritten with; see ``fuse.py``."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@dataclass(frozen=True, slots=True)
class Activation:
    """By oneDNN's names."""

    name: str = "none"
    algorithm: str = ""


NO_ACTIVATION = Activation()
RELU = Activation("relu")


@dataclass(frozen=True, slots=True)
class Behind:
    """What stands behind a layer: first, perhaps, the addition of another value of its shape."""

    adds: bool = False
    activation: Activation = NO_ACTIVATION


NOTHING = Behind()


class Layer(nn.Module):
    """A layer of a kit. Its weights are frozen, and shared by all graphs of a model."""

    def __deepcopy__(self, _memo: object) -> "Layer":
        return self


class Conv(Layer):
    """A convolution: [N, C, H, W] → [N, K, h, w]; a second value may be added."""

    in_place = False  # whether the sum may overwrite what is added


class Kit:
    """Makes layers that do the work of several; None, as here, where it has no such layer."""

    def conv(
        self,
        conv: nn.Conv2d,  # noqa: ARG002
        norm: nn.BatchNorm2d | None,  # noqa: ARG002
        shape: Sequence[int],  # noqa: ARG002
        behind: Behind,  # noqa: ARG002
    ) -> Conv | None:
        """A convolution, with its batch norm inside.

        Args:
            conv: of the model.
            norm: directly behind it.
            shape: of its input, [N, C, H, W]; any N.
            behind: what the layer does too.
        """
        return None

    def linear(self, weight: Tensor, bias: Tensor | None, behind: Behind) -> Layer | None:  # noqa: ARG002
        """A linear layer: weight [K, C], bias [K]."""
        return None

    def attention(self, attention: nn.MultiheadAttention) -> Layer | None:  # noqa: ARG002
        """Self-attention, called as ``attention(x, x, x, need_weights=False)``."""
        return None


def absorb(conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a convolution that does the norm's work too."""
    if norm is None:
        return conv.weight, conv.bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None  # noqa: S101 - who absorbs it saw to it
    assert variance is not None  # noqa: S101
    return fuse_conv_bn_weights(
        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
    )
