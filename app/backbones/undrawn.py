"""Networks without the random weights that a file replaces: drawing them takes up to a second."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# The others in nn.init come down to the first two. While a mode answers for a function it does not
# see what that calls.
_DRAW = {Tensor.normal_, Tensor.uniform_,
         nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_}  # fmt: skip


class Undrawn(TorchFunctionMode):
    """Within it this thread's tensors are filled with zeros instead of random numbers.

    Zeros, not what lies in memory: some initialisations go on drawing until they like the numbers.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the function returns
        named = kwargs or {}
        if func not in _DRAW:
            return func(*args, **named)
        tensor: Tensor = args[0] if args else named["tensor"]
        with torch.no_grad():
            return tensor.zero_()
