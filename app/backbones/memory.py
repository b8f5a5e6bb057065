"""Is there room for a model? Better refused with the numbers than ended by the kernel."""

import ctypes
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from app.backbones.manifest import Manifest
from app.errors import NotEnoughMemory

_COPIES = 4  # of the weights: the file's content, the model, up to two layouts of a fused trunk
_COMPILER = 1_000_000_000  # bytes: torch, OpenVINO, and what a batch of eight takes
_COMPILER_COPIES = 6  # of the weights: the model, the fused trunk, the exported one, two programs
_RESERVE = 256_000_000  # bytes that stay free for the requests themselves
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")
_CGROUP = Path("/sys/fs/cgroup")
_KEEPS = "MALLOC_MMAP_THRESHOLD_"  # see ``engine/environment.py``
_M_MMAP_THRESHOLD = -3
_WEIGHT = 1_000_000  # bytes: smaller ones share their pages with others


def check_fits(manifest: Manifest) -> None:
    """Compare a weights file with the machine's memory, before it is read.

    Raises:
        NotEnoughMemory: with both numbers.
    """
    file = manifest.weights_file
    available = _available()
    if file is None or not file.is_file() or available is None:
        return
    needed = _COPIES * file.stat().st_size
    if needed > available:
        raise NotEnoughMemory(
            f"{manifest.name}: loading {file.name} takes {_mb(needed)}, and {_mb(available)} are"
            " free on this machine."
        )


def check_compiles(model: nn.Module) -> None:
    """Compare what compiling a model takes, by measurement, with the machine's memory.

    Raises:
        NotEnoughMemory: with both numbers.
    """
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    needed, available = _COMPILER + _COMPILER_COPIES * weights, _available()
    if available is not None and needed > available:
        raise NotEnoughMemory(
            f"compiling it takes {_mb(needed)}, and {_mb(available)} are free on this machine."
        )


class Meter:
    """Measures what loading and warming up a model takes of a device, from now on.

    On a GPU what a batch needs counts, too, as the warm-up runs the largest; elsewhere while the
    process keeps that. What other models do meanwhile cannot be told apart.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _trim()  # else a model may take what others have left behind, and count for nothing
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)  # the peak is what is allocated now
        self._before = self._held()

    def taken(self) -> int:
        """Bytes; 0 where the system does not say."""
        return max(self._held() - self._before, 0)

    def _held(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _field(_STATUS, "VmRSS") or 0


def check_left(manifest: Manifest, device: torch.device, taken: int) -> None:
    """Look at what a warm model has left over for the requests.

    Raises:
        NotEnoughMemory: too little, with both numbers.
    """
    left = _left(device)
    if left is not None and left < _RESERVE:
        raise NotEnoughMemory(
            f"{manifest.name}: it takes {_mb(taken)}, which leaves {_mb(max(left, 0))} on {device};"
            f" {_mb(_RESERVE)} must stay free for requests."
        )


def full_device(manifest: Manifest, device: torch.device) -> NotEnoughMemory:
    """The error for a model that a GPU had no room for."""
    free, total = torch.cuda.mem_get_info(device)
    return NotEnoughMemory(
        f"{manifest.name}: it does not fit on {device}: {_mb(free)} of {_mb(total)} are free there."
    )


def give_back(device: torch.device) -> None:
    """Return to the system what a model that nobody holds any more has left behind."""
    gc.collect()  # traced modules are full of cycles
    if device.type == "cuda":
        torch.cuda.empty_cache()
    _trim()


@contextmanager
def weights_apart() -> Iterator[None]:
    """Weights that are allocated within this go back to the system once they are freed, one by one.

    A worker's other memory is kept for its next batch. To look through all of that for what could
    be given back holds up whoever allocates, for 40 ms where a ResNet-50 was replaced.
    """
    kept = os.environ.get(_KEEPS, "")
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if not kept.isdecimal() or not choose:
        yield
        return
    choose(_M_MMAP_THRESHOLD, _WEIGHT)
    try:
        yield
    finally:
        choose(_M_MMAP_THRESHOLD, int(kept))


def _trim() -> None:
    """Glibc keeps freed weights for itself: 400 MB after a ResNet-50 was replaced."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _left(device: torch.device) -> int | None:
    if device.type != "cuda":
        return _available()
    torch.cuda.empty_cache()  # what stays reserved is in use, or the CUDA graphs' own
    return torch.cuda.mem_get_info(device)[0]


def _available() -> int | None:
    """Bytes that a process can have without swapping; None where the system does not say."""
    known = [
        size for size in (_field(_MEMINFO, "MemAvailable"), _left_in_cgroup()) if size is not None
    ]
    return min(known, default=None)


def _left_in_cgroup() -> int | None:
    """What a container's own limit leaves; file caches are given back when needed."""
    try:
        limit = (_CGROUP / "memory.max").read_text("ascii").strip()
        used = int((_CGROUP / "memory.current").read_text("ascii"))
        caches = re.search(
            r"^inactive_file (\d+)", (_CGROUP / "memory.stat").read_text("ascii"), re.MULTILINE
        )
    except OSError:  # no container, or an older kind of one
        return None
    return None if limit == "max" else int(limit) - used + int(caches[1] if caches else 0)


def _field(file: Path, name: str) -> int | None:
    """Bytes of one line of a file in /proc; None where there is no such thing."""
    if not file.is_file():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text("utf-8"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
