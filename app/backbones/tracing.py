"""While ``torch.fx`` traces one model, no other may run.

It replaces ``nn.Module.__call__`` in the whole process, so a model that runs in another thread at
that time would answer with parts of a graph.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class _Gate:
    """Any number of threads may run models, or one may trace: it comes before those not begun."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._running = 0
        self._tracing = 0  # that trace, or wait to

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._tracing)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextmanager
    def tracing(self) -> Iterator[None]:
        with self._changed:
            self._tracing += 1
            self._changed.wait_for(lambda: not self._running)
            try:
                yield  # within the lock: one at a time
            finally:
                self._tracing -= 1
                self._changed.notify_all()


GATE = _Gate()
