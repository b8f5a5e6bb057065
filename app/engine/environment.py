"""What the child processes find in their environment, where the operator says nothing else.

glibc gives large blocks back to the system when they are freed, and the system clears each page
again when the next one is touched: 14,000 page faults in a batch of eight of ResNet-50, a
twentieth of its time. So freed memory is kept: in a worker all of it, until a model comes or goes
(``backbones.memory.give_back``); in an http process what pictures of the usual size take.
"""

import os
from importlib.util import find_spec

_MB = 2**20
_COMMON = {
    # NumPy's products are small here, and the cores are taken: more threads would only spin.
    "OPENBLAS_NUM_THREADS": "1",
}
_BY_ROLE = {
    "http": {
        "MALLOC_ARENA_MAX": "2",  # not one for each thread: each keeps its own memory
        "MALLOC_MMAP_THRESHOLD_": str(8 * _MB),
        "MALLOC_TRIM_THRESHOLD_": str(32 * _MB),
        "MALLOC_TOP_PAD_": str(4 * _MB),
    },
    "worker": {
        # How long OpenMP's threads stay awake between two layers: the next one follows at once, but
        # an http process wants the core. With GNU's own count they would take it for milliseconds.
        "GOMP_SPINCOUNT": "2000",
        "MALLOC_MMAP_THRESHOLD_": str(1024 * _MB),
        "MALLOC_TRIM_THRESHOLD_": str(4096 * _MB),
        "MALLOC_TOP_PAD_": str(64 * _MB),
    },
}


def environment(role: str) -> dict[str, str]:
    """The environment of a child: that of this process, completed.

    Args:
        role: ``http`` or ``worker``.
    """
    return {**_COMMON, **_BY_ROLE[role], **os.environ}


def has_openvino() -> bool:
    """Whether it is installed; it is not imported."""
    return find_spec("openvino") is not None
