"""A trunk of which compiled programs compute the batches that they were made for."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from app.backbones.cores import Cores, Kind


class Compiled(nn.Module):
    """As the trunk, for use without gradients.

    Args:
        programs: by their kinds.
        cores: of the worker.
        own: gives what computes the kinds that there is no program for; else it is not asked.
    """

    def __init__(
        self,
        programs: Mapping[Kind, Callable[[Tensor], Tensor]],
        cores: Cores,
        own: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self._by_kind = dict(programs)
        if missing := set(cores.kinds) - programs.keys():
            self._by_kind |= dict.fromkeys(missing, own())
        self._cores = cores

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], float32 → the trunk's value."""
        trunk = self._by_kind[self._cores.kind(len(x), torch.get_num_threads())]
        return trunk(x.contiguous(memory_format=torch.channels_last))
