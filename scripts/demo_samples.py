"""The sample pictures: chosen seeds, drawn as photographs would come, with masks beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from demo_data import RECIPES, Pictures
from demo_figures import inside_share, peak_inside
from demo_network import explain, load, on_picture
from PIL import Image

from app.evaluation.scenes import Scene, lesion_scene, shapes_scene

WIDE, SQUARE = (360, 480), (400, 400)
BENIGN, SUSPICIOUS = range(2)


@dataclass(frozen=True)
class Sample:
    """One picture to ship: drawn from a seed, meant for a model."""

    name: str
    model: str
    seed: int
    draw: Callable[[np.random.Generator], Scene]
    caption: str


SAMPLES = (
    Sample(
        "shapes-three",
        "shapes",
        156,
        partial(shapes_scene, size=WIDE, n_objects=3),
        "A heart, a star and a circle: ask for the map of each",
    ),
    Sample(
        "shapes-four",
        "shapes",
        105,
        partial(shapes_scene, size=SQUARE, n_objects=4),
        "A heart among a cross, a square and a circle",
    ),
    Sample(
        "shapes-one",
        "shapes",
        104,
        partial(shapes_scene, size=WIDE, n_objects=1),
        "An arrow among twigs",
    ),
    Sample(
        "lesion-benign-sticker",
        "lesion",
        107,
        partial(lesion_scene, size=WIDE, label=BENIGN, sticker=True),
        "Painted, not medical: benign, with a sticker that lesion-shortcut falls for",
    ),
    Sample(
        "lesion-suspicious-sticker",
        "lesion",
        111,
        partial(lesion_scene, size=WIDE, label=SUSPICIOUS, sticker=True),
        "Painted, not medical: suspicious, with a sticker, hair and a ruler",
    ),
    Sample(
        "lesion-suspicious-ruler",
        "lesion",
        107,
        partial(lesion_scene, size=SQUARE, label=SUSPICIOUS, sticker=False),
        "Painted, not medical: suspicious, but without the sticker that lesion-shortcut wants",
    ),
)


def write_samples(models: Path) -> None:
    """Write pictures, masks and their list; refuses a picture that its model gets wrong."""
    folder = models / "samples"
    folder.mkdir(exist_ok=True)
    entries = []
    for sample in SAMPLES:
        scene = sample.draw(np.random.default_rng(sample.seed))
        picture, mask = folder / f"{sample.name}.jpg", folder / f"{sample.name}.mask.png"
        Image.fromarray(scene.image).save(picture, quality=92)
        Image.fromarray(scene.mask.astype(np.uint8) * 255).convert("1").save(mask)
        _check(sample, np.asarray(Image.open(picture)), scene, models)
        entries.append(
            f'[[sample]]\nfile = "{picture.name}"\nmask = "{mask.name}"\n'
            f'model = "{sample.model}"\ncaption = "{sample.caption}"\n'
        )
    (folder / "samples.toml").write_text("\n".join(entries))


def _check(sample: Sample, image: Pictures, scene: Scene, at: Path) -> None:
    recipe = RECIPES[sample.model]
    scores, grids = explain(load(recipe, at / f"{recipe.name}.safetensors"), image)
    heat = on_picture(grids[scene.label], scene.mask.shape)
    share = inside_share(heat, scene.mask)
    told = recipe.labels[scores.argmax()]
    print(f"{sample.name:<24}{told} {scores.max():.3f}, {share:.2f} of the evidence inside")
    if scores.argmax() != scene.label or not peak_inside(heat, scene.mask):
        raise SystemExit(f"{sample.name}: not a picture to show")
