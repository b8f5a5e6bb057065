"""A part of a model as CUDA graphs: launched as a whole, and not kernel by kernel.

Python needs 6 ms to launch the kernels of a ResNet-50, which an H100 computes in 0.4 for one
picture and in 1.5 for 32. A graph has a fixed number of rows and fixed places in memory: there is
one for each of a few sizes, and a batch goes into the next larger one.
"""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

Values = Tensor | tuple[Tensor, ...]  # each of N rows

_WARM_UPS = 3  # cuDNN and the allocator settle before anything is recorded


def sizes(largest: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … and the largest: no more than a third of a graph's rows is idle."""
    steps = {1, 2, 3, largest}
    steps |= {rows << k for k in range(largest.bit_length()) for rows in (2, 3)}
    return sorted(rows for rows in steps if rows <= largest)


class _Turns:
    """Graphs of a device run one at a time, whichever model's they are: after the last has ended.

    They are recorded in one stream: cuBLAS keeps 32 MB for each that multiplies matrices, for ever,
    and the graphs share that memory. It has the lowest priority, which PyTorch lets their kernels
    keep (pull request 167346): a batch that has left its graph has little to do, and must not wait
    for all of the next batch's.
    """

    def __init__(self, device: torch.device) -> None:
        self.lock = Lock()
        self.ended = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.recording = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


_turns = cache(_Turns)


class Captured(nn.Module):
    """As the function that it is made of, for use without gradients, from any thread and stream.

    Args:
        function: [N, 3, H, W] → a value of N rows, or several; what it holds must not change.
        example: an input, [1, 3, H, W], on a GPU.
        largest: rows of the largest graph; more rows than that go through the function itself.
        beside: one of the same model, whose memory serves both.

    Raises:
        RuntimeError: it cannot be recorded, or there is no memory for that.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Values],
        example: Tensor,
        largest: int,
        beside: "Captured | None" = None,
    ) -> None:
        super().__init__()
        self._function = function
        self._input = example.repeat(largest, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        self.pool: Any = beside.pool if beside else torch.cuda.graph_pool_handle()
        self._turns = _turns(example.device)
        self._sizes = sizes(largest)
        with torch.no_grad():
            self._graphs = [self._capture(rows) for rows in reversed(self._sizes)][::-1]

    def forward(self, x: Tensor) -> Values:
        """[N, 3, H, W] → what the function gives, in memory of its own."""
        rows = len(x)
        if rows > self._sizes[-1]:
            return self._function(x)
        graph, outputs = self._graphs[bisect_left(self._sizes, rows)]
        results = tuple(torch.empty_like(output[:rows]) for output in _several(outputs))
        own, turns = torch.cuda.current_stream(x.device), self._turns
        with turns.lock:
            own.wait_event(turns.ended)  # on the GPU: this thread goes on
            self._input[:rows].copy_(x)
            graph.replay()
            for result, output in zip(results, _several(outputs), strict=True):
                result.copy_(output[:rows])
            turns.ended.record(own)
        return results if isinstance(outputs, tuple) else results[0]

    def _capture(self, rows: int) -> tuple[torch.cuda.CUDAGraph, Values]:
        x, stream = self._input[:rows], self._turns.recording
        for _ in range(_WARM_UPS):
            self._function(x)
        graph = torch.cuda.CUDAGraph()
        # Other threads may serve other models meanwhile.
        with torch.cuda.graph(graph, self.pool, stream, capture_error_mode="thread_local"):
            outputs = self._function(x)
        if any(len(output) != rows for output in _several(outputs)):
            raise RuntimeError("its value has no rows of its own for each picture")
        return graph, outputs


def _several(values: Values) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)
