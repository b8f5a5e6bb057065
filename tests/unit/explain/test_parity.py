"""Raw maps equal to those of other libraries, wherever these follow the same paper.

What differs on purpose, and why, stands in docs/numerics.md.
"""

from collections.abc import Callable, Sequence
from functools import cache

import captum.attr as captum
import numpy as np
import pytest
import pytorch_grad_cam as grad_cam
import torch
import torchcam.methods as torchcam
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.backbones.model import Model
from app.engine.fast import run
from app.explain.registry import methods
from app.types import Job, JobResult
from tests.unit.conftest import build_model

SHARED = {"activations", "gradients"}
CLASS = 7
# A layer that both sides can name, and the input's side.
MODELS = {
    "resnet18": ("layer4", 96),
    "densenet121": ("features.denseblock4", 96),
    "efficientnet_b0": ("features.8", 96),
    "convnext_tiny": ("features.7", 96),
    "vit_b_16": ("encoder.layers.encoder_layer_11.ln_1", 224),
}


@cache
def make_case(architecture: str) -> "Case":
    layer, side = MODELS[architecture]
    model = build_model(architecture, side=side)
    calibrate(model.module, side)
    return Case(model, layer, side)


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> "Case":
    return make_case(request.param)


@pytest.fixture(params=[name for name in MODELS if name != "vit_b_16"])
def cnn(request: pytest.FixtureRequest) -> "Case":
    return make_case(request.param)


def calibrate(module: nn.Module, side: int) -> None:
    """Batch norms that fit the random weights: values would fade to 1e-20, below all epsilons."""
    norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the mean of what it sees
        norm.reset_running_stats()
    with torch.no_grad():
        module(torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0)))
    module.eval()


class Case:
    """A model, a random picture, and both sides' ways to explain it."""

    def __init__(self, model: Model, layer: str, side: int) -> None:
        self.model = model
        self.layer = layer
        self.pixels = np.random.default_rng(3).integers(0, 256, (side, side, 3), np.uint8)
        self.x = model.inputs([self.pixels])
        self.target_layer = model.module.get_submodule(layer)

    def ours(self, method: str, against: Sequence[int] = ()) -> NDArray[np.float32]:
        info = methods()[method].info
        job = Job(
            model="m",
            version="v",
            pixels=self.pixels,
            deadline=0,
            classes=(CLASS,),
            methods=(method,),
            layers=(self.layer,) if "activations" in info.needs else (),
            against=tuple(against),
            needs=tuple(sorted(set(info.needs) - SHARED)),
        )
        (result,) = run(self.model, [job])
        assert isinstance(result, JobResult)
        return result.maps[0].values

    def with_graph(self) -> tuple[Tensor, nn.Module]:
        """The input and the module, as libraries want them that need gradients everywhere."""
        return self.x.clone().requires_grad_(), self.model.module

    def tokens(self, value: Tensor) -> Tensor:
        return self.model.cut(self.layer).grid.maps(value)

    def by_grad_cam(self, name: str) -> NDArray[np.float32]:
        """The weighted sum, as that library has it before its ReLU."""
        x, module = self.with_graph()
        raw: list[NDArray[np.float32]] = []
        base = getattr(grad_cam, name)

        class Watched(base):  # type: ignore[misc, valid-type]
            def get_cam_image(self, *args: object, **kwargs: object) -> NDArray[np.float32]:
                found: NDArray[np.float32] = super().get_cam_image(*args, **kwargs)
                raw.append(found)
                return found

        target = [grad_cam.utils.model_targets.ClassifierOutputTarget(CLASS)]
        with Watched(module, [self.target_layer], reshape_transform=self.tokens) as cam:
            cam(x, target)
        first: NDArray[np.float32] = raw[0][0]
        return first


def assert_close(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], tolerance: float = 1e-4
) -> None:
    assert ours.shape == theirs.shape
    scale = float(np.abs(theirs).max())
    assert scale > 0
    np.testing.assert_allclose(ours, theirs, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize(
    ("method", "theirs"),
    [
        ("gradcam", "GradCAM"),
        ("hirescam", "HiResCAM"),
        ("xgradcam", "XGradCAM"),
        ("layercam", "LayerCAM"),
    ],
)
def test_cams_are_those_of_pytorch_grad_cam(case: Case, method: str, theirs: str) -> None:
    assert_close(case.ours(method), case.by_grad_cam(theirs))


def test_eigengradcam_is_that_of_pytorch_grad_cam_but_for_its_sign(case: Case) -> None:
    ours, theirs = case.ours("eigengradcam"), case.by_grad_cam("EigenGradCAM")
    assert_close(ours, theirs * np.sign((ours * theirs).sum()))


def test_finercam_is_that_of_torchcam(cnn: Case) -> None:
    x, module = cnn.with_graph()
    with torchcam.FinerCAM(module, cnn.layer) as extractor:
        logits = module(x)
        for rivals in ([], [1, 2, 5]):  # chosen by themselves, and named
            (theirs,) = extractor(
                CLASS, logits, comparison_idx=rivals or None, normalized=False, retain_graph=True
            )
            ours = cnn.ours("finercam", against=rivals)
            assert_close(np.maximum(ours, 0), theirs[0].numpy())


def test_guided_gradcam_is_guided_backpropagation_times_gradcam() -> None:
    case = make_case("resnet18")
    x, module = case.with_graph()
    guide = grad_cam.GuidedBackpropReLUModel(module, torch.device("cpu"))
    guided = torch.from_numpy(guide(x, CLASS)).permute(2, 0, 1)[None]  # [1, 3, H, W]
    coarse = torch.from_numpy(case.by_grad_cam("GradCAM")).clamp(min=0)[None, None]
    fine = functional.interpolate(coarse, x.shape[-2:], mode="bilinear", align_corners=False)
    assert_close(case.ours("guided_gradcam"), (fine * guided).sum(dim=1)[0].numpy())


@pytest.mark.parametrize(
    ("method", "attribute"),
    [
        ("saliency", lambda m, x: captum.Saliency(m).attribute(x, CLASS).amax(dim=1)),
        ("input_x_gradient", lambda m, x: captum.InputXGradient(m).attribute(x, CLASS).sum(dim=1)),
    ],
)
def test_input_gradients_are_those_of_captum(
    case: Case, method: str, attribute: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    x, module = case.with_graph()
    theirs = attribute(module, x).detach().numpy()[0]
    assert_close(case.ours(method), theirs)
