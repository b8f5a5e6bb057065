"""The explanation methods: every module of this folder that has ``INFO`` and ``compute``."""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from torch import Tensor

import app.explain
from app.types import MethodInfo


@dataclass(frozen=True)
class Method:
    """``compute(activations, gradients) → maps``: [N, C, h, w] twice → [N, h, w], signed."""

    info: MethodInfo
    compute: Callable[[Tensor, Tensor], Tensor]


@cache
def methods() -> dict[str, Method]:
    """All methods by name."""
    found = {}
    for module_info in pkgutil.iter_modules(app.explain.__path__, "app.explain."):
        module = import_module(module_info.name)
        if hasattr(module, "INFO"):
            found[module.INFO.name] = Method(module.INFO, module.compute)
    return found
