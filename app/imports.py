"""How a process imports what it is made of: once, for good, and no more than it needs."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

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
    postponed = sys.modules[_COMPILER] = _Postponed(_COMPILER)
    try:
        import_module("torchvision")
    finally:
        postponed.leave()


class _Postponed(ModuleType):
    """Asks the module once it is asked itself; who wants more of it gets the module."""

    def is_compile_supported(self, device: str) -> bool:
        """What torchvision imports, and does not ask."""
        supported: bool = self._module().is_compile_supported(device)
        return supported

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._module(), name)

    def _module(self) -> ModuleType:
        self.leave()
        return import_module(self.__name__)

    def leave(self) -> None:
        """Let the module itself be found."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
