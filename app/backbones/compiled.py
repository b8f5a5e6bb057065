"""A trunk of which compiled programs compute the batches that they were made for."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from app.backbones.cores import Cores, Kind


class Compiled(nn.Module):
    """As the trunk, for use without gradients.

    Args:
        by_kind: what computes each of ``cores.kinds``.
        cores: of the worker.
    """

    def __init__(self, by_kind: Mapping[Kind, Callable[[Tensor], Tensor]], cores: Cores) -> None:
        super().__init__()
        self._by_kind = dict(by_kind)
        self._cores = cores

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], float32 → the trunk's value."""
        trunk = self._by_kind[self._cores.kind(len(x), torch.get_num_threads())]
        return trunk(x.contiguous(memory_format=torch.channels_last))
