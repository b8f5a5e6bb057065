"""Every classification model of torchvision, from four lines: cut, explained, compared.

The fast form takes a small one of each family; ``scripts/test --all`` takes all.
"""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models

from app.backbones.manifest import read_manifest
from app.backbones.model import Model
from app.engine.fast import run
from app.types import Job, JobResult, Pixels

SMALL = {
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1",
    "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32",
}  # fmt: skip
ARCHITECTURES = [
    name if name in SMALL else pytest.param(name, marks=pytest.mark.slow)
    for name in models.list_models(module=models)
]
Numbers = NDArray[np.float32]
CLASS = 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_four_lines_suffice_for_scores_and_a_map_that_autograd_confirms(
    architecture: str, tmp_path: Path
) -> None:
    (tmp_path / "m.toml").write_text(
        f'name = "m"\nfamily = "torchvision"\narchitecture = "{architecture}"\nweights = "random"\n'
    )
    model = Model(read_manifest(tmp_path / "m.toml"), torch.device("cpu"))
    pixels = picture(*model.preprocess.crop)
    outcome = run(model, [job(pixels)])[0]
    assert isinstance(outcome, JobResult)
    logits, expected = confirmed(model, pixels)
    error = np.abs(outcome.logits - logits).max() / np.abs(logits).max()
    assert error < 1e-4
    values = outcome.maps[0].values
    assert min(values.shape) > 1
    assert values.shape == (model.cut().grid.height, model.cut().grid.width)
    assert np.isfinite(values).all()
    assert np.ptp(values) > 0
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    gc.collect()


def picture(height: int, width: int) -> Pixels:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    fine = coarse.astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    return fine[:height, :width]


def job(pixels: Pixels) -> Job:
    return Job(
        model="", version="", pixels=pixels, deadline=0, classes=(CLASS,), methods=("gradcam",)
    )


def confirmed(model: Model, pixels: Pixels) -> tuple[Numbers, Numbers]:
    """Logits and Grad-CAM of the model as torchvision built it, by autograd from a hook."""
    x = model.inputs([pixels])
    with torch.enable_grad():
        logits, value = by_hand(model.module, x, model.layer)
        (gradient,) = torch.autograd.grad(logits[0, CLASS], value)
    grid = model.cut().grid
    maps, gradients = grid.maps(value.detach()), grid.maps(gradient)
    weights = gradients.mean(dim=(2, 3), keepdim=True)
    return logits[0].detach().numpy(), (weights * maps).sum(dim=1)[0].numpy()


def by_hand(module: nn.Module, x: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The logits, and the value of a layer as the leaf that they come from."""
    if isinstance(module, models.DenseNet):  # its last map is a function's, not a module's
        value = functional.relu(module.features(x)).requires_grad_()
        return module.classifier(value.mean(dim=(2, 3))), value
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()  # safe from an in-place step behind it

    handle = module.get_submodule(layer).register_forward_hook(keep)
    logits: Tensor = module(x)
    handle.remove()
    return logits, kept[0]
