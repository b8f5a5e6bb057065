"""The explanation methods: every module of this folder that has ``INFO``.

A fast method is a function ``compute``: a batch of evidence in, a map for each row out. The names
of its parameters say what it needs, and the runner hands it just that:

    inputs, input_gradients            [N, 3, H, W]  the normalised picture, and d objective / d it
    activations, gradients             [N, C, h, w]  the same at the model's cut, or at ``layer``
    guided_gradients                   [N, 3, H, W]  as input_gradients, through guided ReLUs
    attention, attention_gradients     one [N, heads, T, T] for each block of a transformer

It gives [N, h, w], signed, float32, before any ReLU; or [N, T], a number for each token. A gradient
is that of the ``objective``: the logit of the class, unless the module has a function of that name.
"""

import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

import app.explain
from app.types import MethodInfo

Objective = Callable[[Tensor, int, Sequence[int]], Tensor]


def class_logit(logits: Tensor, class_idx: int, _against: Sequence[int]) -> Tensor:
    """The plain objective: the logit of the class.

    Args:
        logits: [classes], of one row.
        class_idx: the class to explain.

    Returns:
        [classes], the weight of each logit in what is differentiated.
    """
    weights = torch.zeros_like(logits)
    weights[class_idx] = 1
    return weights


@dataclass(frozen=True)
class Method:
    """A method as the runner sees it. ``fuse`` makes one map of those of several layers."""

    info: MethodInfo
    compute: Callable[..., Tensor]
    objective: Objective
    fuse: Callable[[Sequence[Tensor]], Tensor] | None


@cache
def methods() -> dict[str, Method]:
    """All methods by name."""
    modules = (
        import_module(found.name)
        for found in pkgutil.iter_modules(app.explain.__path__, "app.explain.")
    )
    read = [_read(module) for module in modules if hasattr(module, "INFO")]
    return {method.info.name: method for method in read}


def _read(module: ModuleType) -> Method:
    fuse = getattr(module, "fuse", None)
    derived = {
        "lane": "fast",
        "needs": tuple(inspect.signature(module.compute).parameters),
        "several_layers": fuse is not None,
        "against": hasattr(module, "objective"),
    }
    return Method(
        info=module.INFO.model_copy(update=derived),
        compute=module.compute,
        objective=getattr(module, "objective", class_logit),
        fuse=fuse,
    )
