"""Where a worker's models live, and how batches take turns there."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

import torch

log = logging.getLogger(__name__)

_LOST = 70  # exit status
_GPU_LANES = 2  # one batch computes while the next one's pictures come, and the last one's maps go


class Device:
    """A processor or a GPU.

    Args:
        device: as torch has it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own = local()

    @property
    def lanes(self) -> int:
        """Batches that are worth having in progress at once."""
        return _GPU_LANES if self._device.type == "cuda" else 1

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Work on the device, in this thread's own order.

        An error that a GPU keeps ends the process: it would answer with nothing else from then on.
        The pool starts another worker, and the jobs go there.
        """
        try:
            if self._device.type == "cuda":
                with torch.cuda.stream(self._stream()):
                    yield
            else:
                yield
        except torch.AcceleratorError:
            log.critical("the device %s is lost; this process ends", self._device, exc_info=True)
            os._exit(_LOST)

    def _stream(self) -> torch.cuda.Stream:
        """This thread's, which goes before what all threads share; see ``Captured``."""
        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call]
        stream: torch.cuda.Stream = self._own.stream
        return stream
