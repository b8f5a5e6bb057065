"""Workers of several devices want the same file of a cache: one of them makes it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(place: Path, *, wait: bool = True) -> Iterator[None]:
    """Wait until nobody else is within this, for the same place, whose folder exists.

    Raises:
        BlockingIOError: somebody is, who is not waited for.
    """
    with place.with_name(place.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
