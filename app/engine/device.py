"""Where a worker's models live, and how batches take turns there."""

import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from threading import local
from typing import ParamSpec, TypeVar

import torch

from app.engine.sharing import SharedCores, Sharing, WholeDevice

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_LOST = 70  # exit status


class Device:
    """A processor or a GPU.

    Args:
        device: as torch has it.

    Attributes:
        cores: of the processor, as many as torch has been told of.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.cores = torch.get_num_threads()
        self._own = local()

    @property
    def is_gpu(self) -> bool:
        """Whether torch drives it by CUDA."""
        return self._device.type == "cuda"

    def sharing(self, max_rows: int) -> Sharing:
        """How its batches share it.

        Args:
            max_rows: in a batch on a GPU, in all of them together on a processor.
        """
        return WholeDevice(max_rows) if self.is_gpu else SharedCores(max_rows, self.cores)

    def use_cores(self, count: int | None = None) -> None:
        """Let what this thread computes on the processor take so many cores; None: all.

        A GPU's batches are put together there, and by one core: several would wait for one another
        at each picture, which takes ten times as long.
        """
        torch.set_num_threads(count or self.cores)

    @cached_property
    def background(self) -> torch.cuda.Stream | None:
        """The order of what several threads do one after the other: loading, steps of slow jobs.

        One for all, as each that ever multiplied matrices has 32 MB of cuBLAS for itself. It is
        made when the first model is loaded, which is before there is any job.
        """
        return self._order()

    @contextmanager
    def turn(self, order: torch.cuda.Stream | None = None) -> Iterator[None]:
        """Work on the device, in a given order, else in this thread's own.

        An error that a GPU keeps ends the process: it would answer with nothing else from then on.
        The pool starts another worker, and the jobs go there.
        """
        if order is None and not hasattr(self._own, "order"):
            self._own.order = self._order()
        try:
            with torch.cuda.stream(order or self._own.order):  # nothing where there is no GPU
                yield
        except torch.AcceleratorError:
            self.end_if_lost()
            raise

    def _order(self) -> torch.cuda.Stream | None:
        """A new one, which goes before the CUDA graphs that all threads share."""
        if not self.is_gpu:
            return None
        return torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]

    def end_if_lost(self) -> None:
        """End the process where the device answers with nothing but errors."""
        try:
            torch.cuda.synchronize(self._device)
        except torch.AcceleratorError:
            log.critical("the device %s is lost; this process ends", self._device, exc_info=True)
            os._exit(_LOST)


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a thread that ends with it, as do then the threads that torch gave it.

    OpenMP keeps some for each thread that ever computed. Were there more of them than cores, none
    would ever wait awake for the others, and every layer would begin with waking them: a small
    network's forward pass takes twice as long so.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *args, **kwargs).result()
