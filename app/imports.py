"""What a process imports stays until its end: the garbage collector need not look through it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """Import within this what the process is made of.

    Else the collector looks through all of it again and again: a quarter of a worker's start, and
    a sixth of a second, in which nobody is served, whenever a model comes or goes. torch alone is
    340,000 objects.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
