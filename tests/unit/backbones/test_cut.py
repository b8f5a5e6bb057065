"""The two parts of a classifier are the classifier, and the cut is where it should be."""

import pytest
import torch
from torch import Tensor, nn

from app.backbones.cut import Cutter, Untraceable
from app.backbones.grid import read_grid
from app.errors import ModelCheckFailed
from tests.unit.conftest import MakeModel

CUTS = {
    "resnet18": ("layer4", (7, 7)),
    "mobilenet_v3_small": ("features", (7, 7)),
    "efficientnet_b0": ("features", (7, 7)),
    "convnext_tiny": ("features", (7, 7)),
    "shufflenet_v2_x0_5": ("conv5", (7, 7)),
    "densenet121": ("relu", (7, 7)),
    "squeezenet1_1": ("classifier.2", (13, 13)),
    "alexnet": ("features.11", (13, 13)),
    "swin_t": ("permute", (7, 7)),
    "vit_b_16": ("encoder.layers.encoder_layer_10", (14, 14)),
}


def example(side: int = 224) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", CUTS)
def test_the_cut_is_found_and_its_two_parts_are_the_model(
    architecture: str, make_model: MakeModel
) -> None:
    model = make_model(architecture)
    cut = model.cut()
    assert (cut.layer, (cut.grid.height, cut.grid.width)) == CUTS[architecture]
    x = example()
    with torch.no_grad():
        logits, _ = cut.forward_head(cut.forward_features(x))
        torch.testing.assert_close(logits, model.module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "layer"),
    [
        ("resnet18", "layer4.1.bn1"),  # before an in-place ReLU, inside a block
        ("resnet18", "bn1"),
        ("densenet121", "features.norm5"),
        ("vit_b_16", "encoder.layers.encoder_layer_10.ln_1"),
        ("swin_t", "features.7"),  # channels last
    ],
)
def test_the_gradient_at_a_layer_inside_the_head_is_that_of_the_whole_model(
    architecture: str, layer: str, make_model: MakeModel
) -> None:
    model = make_model(architecture)
    x = example()[:1]
    cut = model.cut(layer)
    with torch.enable_grad():
        logits, target = cut.forward_head(cut.forward_features(x).detach().requires_grad_())
        (ours,) = torch.autograd.grad(logits[0, 3], target)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output if output.requires_grad else output.requires_grad_())
        return kept[0].clone()  # whatever comes in place behind it

    handle = model.module.get_submodule(layer).register_forward_hook(keep)
    with torch.enable_grad():
        expected_logits = model.module(x)
        (expected,) = torch.autograd.grad(expected_logits[0, 3], kept[0])
    handle.remove()
    torch.testing.assert_close(target.detach(), kept[0].detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)


def test_heads_tokens_and_channels_are_no_map() -> None:
    picture = torch.zeros(1, 3, 224, 224)
    assert read_grid(torch.zeros(1, 3, 50, 64), picture) is None
    for rounded in ((7, 8), (8, 7)):
        assert read_grid(torch.zeros(1, 64, *rounded), picture) is not None


def test_a_map_has_channels_first_whatever_the_model_has(make_model: MakeModel) -> None:
    for architecture, layer, channels in (
        ("swin_t", "features.7", 768),
        ("vit_b_16", "encoder.layers.encoder_layer_10", 768),
        ("resnet18", "layer4", 512),
    ):
        cut = make_model(architecture).cut(layer)
        with torch.no_grad():
            _, target = cut.forward_head(cut.forward_features(example()))
        maps = cut.grid.maps(target)
        assert maps.shape == (2, channels, cut.grid.height, cut.grid.width)


def test_tokens_become_the_grid_they_were_cut_from(make_model: MakeModel) -> None:
    cut = make_model("vit_b_16").cut()
    tokens = torch.arange(197, dtype=torch.float32).view(1, 197, 1)
    grid = cut.grid.maps(tokens)
    assert grid[0, 0, 0, 0] == 1  # the class token is left out
    assert grid[0, 0, 1, 0] == 15
    assert grid[0, 0, 13, 13] == 196


def test_inputs_that_are_not_square_have_maps_that_are_not(make_model: MakeModel) -> None:
    model = make_model("resnet18")
    cut = Cutter(model.module, torch.randn(1, 3, 320, 192)).cut("layer4")
    assert (cut.grid.height, cut.grid.width) == (10, 6)


def test_a_layer_that_no_class_depends_on_is_not_offered(make_model: MakeModel) -> None:
    layers = {layer.name for layer in make_model("vit_b_16").info.layers}
    assert "encoder.layers.encoder_layer_10" in layers
    assert "encoder.layers.encoder_layer_11" not in layers  # only its class token counts


def test_layers_that_are_offered_can_be_cut(make_model: MakeModel) -> None:
    model = make_model("shufflenet_v2_x0_5", side=96)
    offered = [model.info.layers[i] for i in range(0, len(model.info.layers), 10)]
    x = example(96)
    with torch.no_grad():
        expected = model.module(x)
        for layer in offered:
            cut = model.cut(layer.name)
            logits, target = cut.forward_head(cut.forward_features(x))
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
            assert tuple(cut.grid.maps(target).shape[-2:]) == layer.grid


def test_another_path_to_a_layer_is_told_and_is_the_same_cut(make_model: MakeModel) -> None:
    model = make_model("resnet18")
    (last,) = [layer for layer in model.info.layers if layer.name == "layer4"]
    assert "layer4.1" in last.aliases
    assert model.cut("layer4.1").layer == "layer4"


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x.mean(dim=(2, 3))
        return x.amax(dim=(2, 3))


class NoMap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


def test_a_model_that_cannot_be_traced_says_so() -> None:
    with pytest.raises(Untraceable, match="traced"):
        Cutter(Branches(), torch.randn(1, 3, 8, 8))


def test_a_model_without_a_map_says_so() -> None:
    cutter = Cutter(NoMap().requires_grad_(False), torch.randn(1, 3, 8, 8))
    with pytest.raises(ModelCheckFailed, match="no layer"):
        _ = cutter.default


def test_an_unknown_layer_is_a_key_error(make_model: MakeModel) -> None:
    with pytest.raises(KeyError):
        Cutter(make_model("resnet18").module, example()[:1]).cut("nowhere")
