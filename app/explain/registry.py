"""The explanation methods: every module of this folder that has ``INFO``.

A fast method is a function ``compute``: a batch of evidence in, a map for each row out. The names
of its parameters say what it needs, and the runner hands it just that:

    inputs, input_gradients            [N, 3, H, W]  the normalised picture, and d objective / d it
    activations, gradients             [N, C, h, w]  the same at the model's cut, or at ``layer``
    guided_gradients                   [N, 3, H, W]  as input_gradients, through guided ReLUs
    attention, attention_gradients     one [N, heads, T, T] for each block of a transformer

It gives [N, h, w], signed, float32, before any ReLU; or [N, T], a number for each token. A gradient
is that of the ``objective``: the logit of the class, unless the module has a function of that name.

A slow method is a generator ``explain``, and a function ``passes``; see ``steps.py``.
"""

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
from torch import Tensor

import app.explain
from app.explain.steps import Row, Steps
from app.types import MethodInfo

Numbers = np.ndarray[tuple[int], np.dtype[np.float32]]  # [classes]
Objective = Callable[[Numbers, int, Sequence[int]], Mapping[int, float]]


def class_logit(_logits: Numbers, class_idx: int, _against: Sequence[int]) -> Mapping[int, float]:
    """The plain objective: the logit of the class.

    Args:
        class_idx: the class to explain.

    Returns:
        The weights of the logits in what is differentiated; of those that are missing, 0.
    """
    return {class_idx: 1.0}


@dataclass(frozen=True)
class Method:
    """A fast method as the runner sees it. ``fuse`` makes one map of those of several layers."""

    info: MethodInfo
    compute: Callable[..., Tensor]
    objective: Objective
    fuse: Callable[[Sequence[Tensor]], Tensor] | None


@dataclass(frozen=True)
class SlowMethod:
    """A method of many passes; see ``steps.py``."""

    info: MethodInfo
    explain: Callable[[Row], Steps]
    passes: Callable[[Row], int]


@cache
def methods() -> dict[str, Method]:
    """The fast methods by name."""
    return {module.INFO.name: _fast(module) for module in _modules() if hasattr(module, "compute")}


@cache
def slow_methods() -> dict[str, SlowMethod]:
    """The methods of many passes by name."""
    return {module.INFO.name: _slow(module) for module in _modules() if hasattr(module, "explain")}


def every_info() -> dict[str, MethodInfo]:
    """What there is to know of every method, by name."""
    return {name: method.info for name, method in (methods() | slow_methods()).items()}


def _modules() -> list[ModuleType]:
    names = (found.name for found in pkgutil.iter_modules(app.explain.__path__, "app.explain."))
    return [module for module in map(import_module, names) if hasattr(module, "INFO")]


def _fast(module: ModuleType) -> Method:
    fuse = getattr(module, "fuse", None)
    read_off = {
        "needs": tuple(inspect.signature(module.compute).parameters),
        "several_layers": fuse is not None,
        "against": hasattr(module, "objective"),
    }
    return Method(
        info=module.INFO.model_copy(update=read_off),
        compute=module.compute,
        objective=getattr(module, "objective", class_logit),
        fuse=fuse,
    )


def _slow(module: ModuleType) -> SlowMethod:
    info = module.INFO.model_copy(update={"lane": "slow"})
    return SlowMethod(info=info, explain=module.explain, passes=module.passes)
