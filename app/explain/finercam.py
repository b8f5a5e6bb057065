"""Finer-CAM (Zhang et al. 2025, https://arxiv.org/abs/2501.11309): why this class and not that."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from app.explain import gradcam
from app.types import MethodInfo

INFO = MethodInfo(
    name="finercam",
    title="Finer-CAM",
    paper="https://arxiv.org/abs/2501.11309",
    cost="one pass",
)

_STRENGTH = 0.6  # of the comparison, as in the paper
_RIVALS = 3  # compared with where the caller names none


def objective(
    logits: NDArray[np.float32], class_idx: int, against: Sequence[int]
) -> Mapping[int, float]:
    """The class's logit less that of its rivals: y_c - 0.6 · mean(y_d).

    Args:
        logits: [classes], of one row.
        class_idx: the class to explain.
        against: its rivals; where there are none, the three classes of the nearest logits.

    Returns:
        The weights of the logits; of those that are missing, 0.
    """
    named = dict.fromkeys(index for index in against if index != class_idx)
    rivals = list(named) or _nearest(logits, class_idx)
    return {class_idx: 1.0, **dict.fromkeys(rivals, -_STRENGTH / max(1, len(rivals)))}


def compute(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM of that objective.

    Args:
        activations: [N, C, h, w].
        gradients: [N, C, h, w].

    Returns:
        [N, h, w], signed.
    """
    return gradcam.compute(activations, gradients)


def _nearest(logits: NDArray[np.float32], class_idx: int) -> list[int]:
    distance = np.abs(logits - logits[class_idx])
    ranking: list[int] = distance.argsort(kind="stable").tolist()
    return [index for index in ranking if index != class_idx][:_RIVALS]
