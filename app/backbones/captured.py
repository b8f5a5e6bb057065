"""A trunk as CUDA graphs: launched as a whole, and not kernel by kernel.

Python needs 6 ms to launch the kernels of a ResNet-50, which an H100 computes in 0.4 for one
picture and in 1.5 for 32. A graph has a fixed number of rows and fixed places in memory: there is
one for each of a few sizes, and a batch goes into the next larger one.
"""

from bisect import bisect_left
from threading import Lock

import torch
from torch import Tensor, nn

_WARM_UPS = 3  # cuDNN and the allocator settle before anything is recorded


def sizes(largest: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, … and the largest: no more than a third of a graph's rows is idle."""
    steps = {1, 2, 3, largest}
    steps |= {rows << k for k in range(largest.bit_length()) for rows in (2, 3)}
    return sorted(rows for rows in steps if rows <= largest)


class Captured(nn.Module):
    """As the trunk it is made of, for use without gradients, from any thread and stream.

    Args:
        trunk: [N, 3, H, W] → activations of N rows, of any float type; its weights frozen.
        example: an input, [1, 3, H, W], on a GPU.
        largest: rows of the largest graph; more rows than that go through the trunk itself.

    Raises:
        RuntimeError: it cannot be recorded, or there is no memory for that.
    """

    def __init__(self, trunk: nn.Module, example: Tensor, largest: int) -> None:
        super().__init__()
        self._trunk = trunk
        self._input = example.repeat(largest, 1, 1, 1).contiguous(memory_format=torch.channels_last)
        self._lock = Lock()
        # One at a time, in a stream of their own. Its priority is the lowest: a batch that has left
        # its graph has little to do, and must not wait for all of the next batch's.
        self._stream = torch.cuda.Stream(example.device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()  # one for all: only one runs at a time
        self._sizes = sizes(largest)
        with torch.no_grad():
            self._graphs = [self._capture(rows) for rows in reversed(self._sizes)][::-1]

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] → the activations, float32, in memory of their own."""
        rows = len(x)
        if rows > self._sizes[-1]:
            return self._trunk(x).float()  # type: ignore[no-any-return]
        graph, output = self._graphs[bisect_left(self._sizes, rows)]
        result = torch.empty_like(output[:rows], dtype=torch.float32)
        own = torch.cuda.current_stream(x.device)
        with self._lock:
            self._stream.wait_stream(own)
            with torch.cuda.stream(self._stream):
                self._input[:rows].copy_(x)
                graph.replay()
                result.copy_(output[:rows])
            own.wait_stream(self._stream)  # on the GPU: this thread goes on
        return result

    def _capture(self, rows: int) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        x = self._input[:rows]
        self._stream.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UPS):
                self._trunk(x)
        torch.cuda.current_stream(x.device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may serve other models meanwhile.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            output = self._trunk(x)
        if len(output) != rows:
            raise RuntimeError("its value has no rows of its own for each picture")
        return graph, output
