"""How a process imports what it is made of: once, for good, and no more than it needs."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo.utils"


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


def import_torchvision() -> None:
    """Import it without torch's compiler, of which its layers for boxes would ask one thing.

    That is 900 modules: two seconds of a worker's start on a slow machine, and 150 MB.
    """
    import_module("torch")
    if _COMPILER in sys.modules:
        return
    sys.modules[_COMPILER] = _Postponed(_COMPILER)
    try:
        import_module("torchvision")
    finally:
        del sys.modules[_COMPILER]


class _Postponed(ModuleType):
    """A module's functions, which import it when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the other one's
            return getattr(import_module(self.__name__), name)(*args, **kwargs)

        return call
