"""Is there room for a model? Better refused with the numbers than ended by the kernel."""

import ctypes
import gc
import re
from pathlib import Path

import torch

from app.backbones.manifest import Manifest
from app.errors import NotEnoughMemory

_COPIES = 4  # of the weights: the file's content, the model, and two layouts of a fused trunk
_MEMINFO = Path("/proc/meminfo")


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
    # glibc keeps freed weights for itself: 400 MB after a ResNet-50 was replaced.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _available() -> int | None:
    """Bytes that a process can have without swapping; None where the system does not say."""
    if not _MEMINFO.is_file():
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text("ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
