"""A trunk with machine code for some batches, in front of the one that takes all."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

SIZES = (8, 4, 2, 1)  # rows; batches on a processor are small


class Batch(NamedTuple):
    """What a program is made for: so many rows, computed by one core or by several.

    oneDNN wants another layout of the weights where several cores share one row, and the wrong one
    costs more than compiling gains; of two rows and more there is only the program for one core.
    """

    rows: int
    several: bool = False


def kind_of(rows: int, cores: int) -> Batch:
    """By whom a batch of so many rows can be computed."""
    return Batch(rows, several=rows == 1 and cores > 1)


class Compiled(nn.Module):
    """As the trunk, for use without gradients.

    A batch is split into those that there are programs for, never padded; where one is missing, all
    of it takes the trunk.

    Args:
        trunk: takes whatever comes.
        shape: of an input's row, [3, H, W].
        programs: the trunk, for some batches of float32 pictures, channels last.
    """

    def __init__(
        self,
        trunk: nn.Module,
        shape: torch.Size,
        programs: Mapping[Batch, Callable[[Tensor], Tensor]],
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self._shape = shape
        self._programs = dict(programs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] → the trunk's value."""
        programs = self._plan(len(x)) if x.shape[1:] == self._shape else []
        if not programs or x.dtype != torch.float32:
            whole: Tensor = self.trunk(x)
            return whole
        x = x.contiguous(memory_format=torch.channels_last)
        begin, values = 0, []
        for rows, program in programs:
            values.append(program(x[begin : begin + rows]))
            begin += rows
        return values[0] if len(values) == 1 else torch.cat(values)

    def _plan(self, rows: int) -> list[tuple[int, Callable[[Tensor], Tensor]]]:
        """The programs that together take so many rows; none where one of them is missing."""
        cores = torch.get_num_threads()
        parts = [(part, self._programs.get(kind_of(part, cores))) for part in _split(rows)]
        found = [(part, program) for part, program in parts if program]
        return found if len(found) == len(parts) else []


def _split(rows: int) -> Iterator[int]:
    for size in SIZES:
        while rows >= size:
            yield size
            rows -= size
