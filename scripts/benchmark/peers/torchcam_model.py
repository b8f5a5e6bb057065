"""A batch through torchcam: what the four batching peers share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torchcam.methods import GradCAM

from benchmark.peers import common

if TYPE_CHECKING:
    from benchmark.peers.common import Map

    Predictions = list[dict[str, float]]


class Model:
    """As torchcam's documentation has it: one extractor for the life of the process."""

    def __init__(self, threads: int) -> None:
        self._model = common.load_model(threads)
        self._cam = GradCAM(self._model, common.target_layer(), reshape_transform=common.reshape())

    def predict(self, inputs: Sequence[Tensor]) -> "list[Predictions]":
        """No autograd, no hooks."""
        self._cam.disable_hooks()
        with torch.inference_mode():
            logits = self._model(torch.stack(list(inputs)))
        return [common.top(row) for row in logits]

    def explain(self, inputs: Sequence[Tensor]) -> "list[tuple[Predictions, Map]]":
        """The top class of each row, by one forward and one backward pass of the batch."""
        self._cam.enable_hooks()
        logits = self._model(torch.stack(list(inputs)))
        (maps,) = self._cam(logits.argmax(1).tolist(), logits)
        self._cam.reset_hooks()
        return [
            (common.top(row), cam.numpy().astype(np.float32))
            for row, cam in zip(logits, maps, strict=True)
        ]
