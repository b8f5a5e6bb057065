"""Figures of the demo models on pictures that no training has seen."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from demo_data import RECIPES, as_input
from demo_network import explain, load, on_picture
from numpy.typing import NDArray
from torch import nn

from app.backbones.manifest import find_manifest
from app.backbones.model import Model
from app.engine.fast import run
from app.evaluation.scenes import Scene, lesion_scene, shapes_scene
from app.evaluation.scenes.types import Mask
from app.types import Job, JobResult

Figures = dict[str, float]
Draw = Callable[[np.random.Generator], Scene]
# Training draws from seeds that begin with the recipe's number; these can never meet them.
FRESH = 90_000


def figures(name: str, models: Path, n: int = 400) -> Figures:
    """Everything that is promised of model `name`, measured on fresh pictures."""
    if name == "shapes-vit":
        return _transformer(models, n)
    network = load(RECIPES[name], models / f"{name}.safetensors")
    return _shapes(network, n) if name == "shapes" else _lesion(network, n)


def _shapes(network: nn.Module, n: int) -> Figures:
    crowded: Draw = lambda rng: shapes_scene(rng, n_objects=int(rng.integers(2, 5)))  # noqa: E731
    return {
        "accuracy": _accuracy(network, _fresh(shapes_scene, n, 1)),
        "peak on the dominant object": _pointing(network, _fresh(shapes_scene, 200, 2), 1),
        "peak on each of 2-4 objects": _pointing(network, _fresh(crowded, 200, 3), 4),
    }


def _transformer(models: Path, n: int) -> Figures:
    """As the service would answer: it knows more methods for a transformer than a closed form."""
    model = Model(find_manifest(models, "shapes-vit"), torch.device("cpu"))
    results = [_answered(model, scene) for scene in _fresh(shapes_scene, n, 1)]
    right = [int(result.logits.argmax()) == scene.label for scene, result in results]
    pointing = {
        f"peak on the dominant object, {found.method}": float(np.mean([
            peak_inside(on_picture(result.maps[i].values, scene.mask.shape), scene.mask)
            for scene, result in results
        ]))
        for i, found in enumerate(results[0][1].maps)
    }  # fmt: skip
    return {"accuracy": float(np.mean(right)), **pointing}


def _answered(model: Model, scene: Scene) -> tuple[Scene, JobResult]:
    job = Job(
        model="", version="", pixels=as_input(scene.image, model.preprocess.crop[0]), deadline=0,
        classes=(scene.label,), methods=("gradcam", "hirescam", "chefer"),
        needs=("attention", "attention_gradients"),
    )  # fmt: skip
    outcome = run(model, [job])[0]
    assert isinstance(outcome, JobResult), outcome  # noqa: S101 - a script's own picture
    return scene, outcome


def _lesion(network: nn.Module, n: int) -> Figures:
    goes_with: Draw = lambda rng: _stickered(rng, sticker_on=1)  # noqa: E731
    goes_against: Draw = lambda rng: _stickered(rng, sticker_on=0)  # noqa: E731
    both: Draw = lambda rng: lesion_scene(rng, sticker=True)  # noqa: E731
    shares = list(_inside_shares(network, _fresh(both, 200, 4)))
    return {
        "accuracy": _accuracy(network, _fresh(lesion_scene, n, 5)),
        "accuracy, sticker on suspicious": _accuracy(network, _fresh(goes_with, n, 6)),
        "accuracy, sticker on benign": _accuracy(network, _fresh(goes_against, n, 7)),
        "median inside share": float(np.median(shares)),
        "lower quartile of inside share": float(np.quantile(shares, 0.25)),
    }


def _stickered(rng: np.random.Generator, sticker_on: int) -> Scene:
    label = int(rng.integers(2))
    return lesion_scene(rng, label=label, sticker=label == sticker_on)


def _fresh(draw: Draw, n: int, series: int) -> Iterator[Scene]:
    return (draw(np.random.default_rng([FRESH, series, index])) for index in range(n))


def _accuracy(network: nn.Module, scenes: Iterable[Scene]) -> float:
    return float(np.mean([explain(network, s.image)[0].argmax() == s.label for s in scenes]))


def _pointing(network: nn.Module, scenes: Iterable[Scene], objects: int) -> float:
    """Share of (at most `objects` largest) objects that hold the peak of their own class map."""
    hits = [hit for scene in scenes for hit in _hits(network, scene, objects)]
    return float(np.mean(hits))


def _hits(network: nn.Module, scene: Scene, objects: int) -> list[bool]:
    grids = explain(network, scene.image)[1]
    return [
        peak_inside(on_picture(grids[thing.label], thing.mask.shape), thing.mask)
        for thing in scene.objects[:objects]
    ]


def peak_inside(heat: NDArray[np.float32], mask: Mask) -> bool:
    """Whether the hottest pixel lies inside the mask; a map without evidence points nowhere."""
    return bool(heat.max() > 0 and mask.flat[heat.argmax()])


def inside_share(heat: NDArray[np.float32], mask: Mask) -> float:
    """Share of the positive evidence that lies inside the mask; 0 where there is none."""
    return float(heat[mask].sum() / max(float(heat.sum()), 1e-12))


def _inside_shares(network: nn.Module, scenes: Iterable[Scene]) -> Iterator[float]:
    for scene in scenes:
        scores, grids = explain(network, scene.image)
        yield inside_share(on_picture(grids[scores.argmax()], scene.mask.shape), scene.mask)
