"""The model-randomisation test."""

import numpy as np
import pytest

from app.evaluation.sanity import STAGES, Sanity, sanity
from app.types import Pixels
from tests.unit.conftest import build_model


def pictures() -> list[Pixels]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    return list(coarse.repeat(12, axis=1).repeat(12, axis=2))


def test_maps_change_as_the_layers_forget() -> None:
    model = build_model("resnet18", num_classes=10, side=96)
    counted: list[None] = []
    found = sanity(model, ["gradcam", "occlusion"], pictures(), 16, lambda: counted.append(None))
    assert [row.method for row in found] == ["gradcam", "occlusion"]
    assert len(counted) == 2 * 2 * (len(STAGES) + 2)
    for row in found:
        assert len(row.correlations) == len(STAGES) + 1
        assert max(row.correlations) < 0.999


def test_a_trunk_that_would_remember_is_refused() -> None:
    model = build_model("resnet18", num_classes=10, side=96, fused=True)
    with pytest.raises(ValueError, match="copies of its weights"):
        sanity(model, ["gradcam"], pictures(), 16, lambda: None)


def test_what_stays_the_same_fails() -> None:
    assert not Sanity("edges", (1.0, 0.9, 0.9, 0.8)).passes
    assert Sanity("gradcam", (0.9, 0.5, 0.2, 0.1)).passes
