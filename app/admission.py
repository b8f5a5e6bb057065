"""How many requests are in progress, and when one that is refused should come back."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import Overloaded

_LONGEST_S = 60


class Admission:
    """Counts requests from their last byte to their answer.

    Args:
        limit: requests in progress above which one more is refused.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted = 0
        self._finished = 0
        self._busy_since = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Take a request in, or raise ``Overloaded``."""
        if self._admitted >= self._limit:
            raise self._overloaded()
        if not self._admitted:  # idle time says nothing of the rate
            self._finished, self._busy_since = 0, time.monotonic()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1
            self._finished += 1

    def _overloaded(self) -> Overloaded:
        """Come back when what is in progress is done, at the rate since the rush began."""
        seconds = self._admitted * (time.monotonic() - self._busy_since) / max(self._finished, 1)
        return Overloaded(
            f"{self._admitted} requests are in progress, which is the limit.",
            retry_after=max(1, math.ceil(min(seconds, _LONGEST_S))),
        )
