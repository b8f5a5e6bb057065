"""Models with random weights, made once a session: no downloads."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from app.backbones.manifest import Manifest
from app.backbones.model import Loading, Model

MakeModel = Callable[..., Model]


def make_manifest(folder: Path = Path(), **keys: object) -> Manifest:
    """Of a small model with random weights."""
    return Manifest.model_validate(
        {
            "path": folder / "m.toml",
            "name": "m",
            "family": "torchvision",
            "architecture": "shufflenet_v2_x0_5",
            "weights": "random",
            "num_classes": 4,
            "preprocess": {"resize": 64, "crop": 64},
            **keys,
        }
    )


def build_model(
    architecture: str,
    num_classes: int | None = None,
    layer: str | None = None,
    side: int = 224,
    *,
    fused: bool = False,
) -> Model:
    """A model of a test's own; its weights may be changed where it is not fused."""
    manifest = Manifest.model_validate(
        {
            "path": Path("unused.toml"),
            "name": "test",
            "family": "torchvision",
            "architecture": architecture,
            "weights": "random",
            "num_classes": num_classes,
            "layer": layer,
            "preprocess": {"resize": side, "crop": side},
        }
    )
    return Model(manifest, torch.device("cpu"), Loading(fused=fused))


_make = cache(build_model)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """``make_model(architecture, num_classes=None, layer=None, side=224)``: as it is served."""

    def make(
        architecture: str,
        num_classes: int | None = None,
        layer: str | None = None,
        side: int = 224,
    ) -> Model:
        return _make(architecture, num_classes, layer, side, fused=True)

    return make
