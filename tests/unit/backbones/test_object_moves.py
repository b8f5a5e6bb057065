"""Where an object is pasted, there the map changes: places are not mixed up on the way to a grid.

Weights are random: no training is needed for a map to follow what it is computed from.
"""

import numpy as np
import pytest
import torch

from app.backbones.model import Model
from app.engine.fast import run
from app.types import Job, JobResult, Pixels
from tests.unit.conftest import make_manifest

ARCHITECTURES = {
    "torchvision": ("resnet18", "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t", "convnext_tiny"),
    "timm": (
        "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224", "convnextv2_atto",
        "swin_tiny_patch4_window7_224",
    ),
}  # fmt: skip
PLACES = ((0.15, 0.15), (0.6, 0.6), (0.15, 0.6), (0.6, 0.15))  # of the upper left corner, (y, x)
SIDE = 0.25  # of the picture's


def build(family: str, architecture: str) -> Model:
    size = {"resize": 224, "crop": 224} if "dinov2" in architecture else {}  # not its 518
    return Model(
        make_manifest(family=family, architecture=architecture, preprocess=size, num_classes=10),
        torch.device("cpu"),
    )


def explained(model: Model, pixels: Pixels) -> np.ndarray:
    outcome = run(model, [Job(
        model="", version="", pixels=pixels, deadline=1e12, classes=(3,), methods=("gradcam",)
    )])[0]  # fmt: skip
    assert isinstance(outcome, JobResult)
    return outcome.maps[0].values


def peak(values: np.ndarray) -> np.ndarray:
    """The middle of the highest cell, (y, x), as shares of the picture."""
    cell = np.unravel_index(values.argmax(), values.shape)
    return (np.array(cell) + 0.5) / values.shape


@pytest.mark.parametrize(
    ("family", "architecture"),
    [(family, name) for family, names in ARCHITECTURES.items() for name in names],
)
def test_the_map_changes_most_where_the_object_was_pasted(family: str, architecture: str) -> None:
    model = build(family, architecture)
    height, width = model.preprocess.crop
    ground = np.full((height, width, 3), 124, np.uint8)
    nothing = explained(model, ground)
    shape = (int(height * SIDE), int(width * SIDE), 3)
    thing = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    hits = 0
    for place in PLACES:
        y, x = int(place[0] * height), int(place[1] * width)
        picture = ground.copy()
        picture[y : y + shape[0], x : x + shape[1]] = thing
        found = peak(np.abs(explained(model, picture) - nothing))
        distance = np.abs(found - np.array(place) - SIDE / 2)
        hits += bool((distance <= SIDE / 2 + 1 / np.array(nothing.shape)).all())  # one cell off
    assert hits >= len(PLACES) - 1  # MaxViT's grid attention may carry one of them away
