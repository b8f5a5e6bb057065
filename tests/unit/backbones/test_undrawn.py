"""Networks whose weights a file replaces are not drawn first."""

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from app.backbones import family
from app.backbones.family import build
from app.backbones.manifest import Manifest
from app.backbones.undrawn import Undrawn
from app.backbones.weights import load_weights

# One of each way to draw: kaiming, normal, truncated normal, uniform, xavier, their own.
ARCHITECTURES = [
    "alexnet", "resnet18", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5",
    "vit_b_32", "swin_t", "convnext_tiny", "mnasnet0_5", "regnet_y_400mf", "vgg11",
]  # fmt: skip


def manifest_of(folder: Path, architecture: str, weights: str, **keys: str) -> Manifest:
    return Manifest.model_validate(
        {"path": folder / "m.toml", "name": "m", "family": "torchvision",
         "architecture": architecture, "weights": weights, "seed": 3, **keys}
    )  # fmt: skip


def drawn(module: nn.Module) -> list[str]:
    """The names of what is neither constant nor made of a few values."""
    return [name for name, value in module.named_parameters()
            if value.numel() > 8 and len(set(value.flatten()[:1000].tolist())) > 2]  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_weight_is_drawn(architecture: str) -> None:
    before = torch.get_rng_state()
    with Undrawn():
        module = models.get_model(architecture, weights=None)
    assert drawn(module) == []
    assert torch.equal(torch.get_rng_state(), before)


def test_without_it_they_are_drawn() -> None:
    with torch.random.fork_rng():
        assert "conv1.weight" in drawn(models.resnet18(weights=None))


def test_a_network_with_weights_of_a_file_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = models.get_model("mobilenet_v3_small", weights=None).state_dict()
    file = tmp_path / "m.safetensors"
    save_file(trained, file)
    empty: list[list[str]] = []

    def watch(manifest: Manifest, module: nn.Module) -> None:
        empty.append(drawn(module))
        load_weights(manifest, module)

    monkeypatch.setattr(family, "load_weights", watch)
    digest = sha256(file.read_bytes()).hexdigest()
    manifest = manifest_of(tmp_path, "mobilenet_v3_small", file.name, sha256=digest)
    module = build(manifest, allow_factories=False)
    assert empty == [[]]
    assert all(torch.equal(value, trained[name]) for name, value in module.state_dict().items())


def test_random_weights_are_those_of_the_seed(tmp_path: Path) -> None:
    module = build(manifest_of(tmp_path, "resnet18", "random"), allow_factories=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = models.resnet18(weights=None)
    assert torch.equal(module.get_parameter("fc.weight"), expected.fc.weight)
