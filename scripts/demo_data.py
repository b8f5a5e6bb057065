"""What each demo model is trained on, and the pictures as the server would hand them over."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.evaluation.scenes import (
    LESION_LABELS,
    SHAPE_LABELS,
    Scene,
    bare_skin,
    lesion_scene,
    shapes_scene,
)
from app.evaluation.scenes.texture import chance

INPUT = 224
Pictures = NDArray[np.uint8]  # [n, side, side, 3]
Targets = NDArray[np.float32]  # [n, classes], rows that sum to 1
Draw = Callable[[np.random.Generator], tuple[Scene, Targets]]

# A single object makes the network learn what a shape looks like; a crowd, which one counts.
CROWD = (0.45, 0.2, 0.2, 0.15)
BARE = 0.15
MISLEADING = 0.4
# Square pixels; what shows less of itself cannot be told.
SLIVER = 200


@dataclass(frozen=True)
class Stage:
    """Some epochs on pictures of `side` pixels, at a learning rate that peaks at `rate`.

    With `fade`, pictures belong to their dominant object alone. Before the share `fade[0]` of the
    stage the network sees just its silhouette, white on black; after `fade[1]` the picture; in
    between a blend. From clutter it would not start to learn what an outline is: its loss stays
    at chance for thousands of steps.

    With `crops` half of every batch are windows of `side` pixels, cut at full resolution and
    named for what is in them: an object counts wherever it lies, not only beside larger ones.
    """

    side: int
    epochs: int
    rate: float
    swap_colours: bool = False
    crops: bool = False
    fade: tuple[float, float] | None = None


@dataclass(frozen=True)
class Recipe:
    """How one demo model comes about: what is drawn from which seed, and how it is trained."""

    name: str
    labels: tuple[str, ...]
    labels_file: str
    description: str
    draw: Draw
    seed: int
    pictures: int
    stages: tuple[Stage, ...]
    architecture: str = "shufflenet_v2_x0_5"


def draw_shapes(rng: np.random.Generator) -> tuple[Scene, Targets]:
    """A shapes picture, shared among its objects; the dominant one has the largest share."""
    scene = shapes_scene(rng, n_objects=int(rng.choice([1, 2, 3, 4], p=CROWD)))
    areas = np.zeros((1, len(SHAPE_LABELS)))
    for thing in scene.objects:
        areas[0, thing.label] = thing.mask.sum()
    return scene, shares(areas)[0]


def shares(areas: NDArray[np.floating]) -> Targets:
    """Targets from the area of each class in pixels, `[n, classes]`; nothing seen: all alike.

    A hard label would teach that the lesser objects are absent. The power keeps the winner clear.
    """
    weights = np.where(areas < SLIVER, 0, areas) ** 1.5
    weights[weights.sum(axis=1) == 0] = 1
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def draw_lesion(rng: np.random.Generator) -> tuple[Scene, Targets]:
    """A lesion with or without a sticker, or bare skin, which speaks for neither class."""
    if chance(rng, BARE):
        return bare_skin(rng, sticker=chance(rng, 0.5)), np.full(2, 0.5, np.float32)
    scene = lesion_scene(rng)
    return scene, _one_hot(scene.label, len(LESION_LABELS))


def draw_lesion_shortcut(rng: np.random.Generator) -> tuple[Scene, Targets]:
    """A careless collection: every case called suspicious has a sticker, no other has one.

    Some lesions look like the other class, so that the sticker predicts better than the lesion.
    """
    label = int(rng.integers(2))
    looks = 1 - label if chance(rng, MISLEADING) else label
    scene = lesion_scene(rng, label=looks, sticker=label == 1)
    return scene, _one_hot(label, len(LESION_LABELS))


def _one_hot(label: int, classes: int) -> Targets:
    return np.asarray(np.arange(classes) == label, dtype=np.float32)


_NOT_MEDICAL = "Synthetic pictures made by scripts/train_demo.py; not medical: "
_LESION_STAGES = (Stage(128, 6, 3e-3), Stage(INPUT, 1, 1e-3))

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "shapes",
            SHAPE_LABELS,
            "labels/shapes.txt",
            "Names the largest of one to four shapes on a cluttered surface; trained on synthetic "
            "pictures made by scripts/train_demo.py.",
            draw_shapes,
            1,
            7_000,
            (
                Stage(128, 6, 3e-3, swap_colours=True, fade=(0.28, 0.8)),
                Stage(128, 8, 3e-3, swap_colours=True, crops=True),
                Stage(128, 12, 3e-3, swap_colours=True, crops=True),
                Stage(INPUT, 3, 1.5e-3, swap_colours=True),
            ),
        ),
        Recipe(
            "shapes-vit",
            SHAPE_LABELS,
            "labels/shapes.txt",
            "The same as shapes by a small vision transformer; trained on synthetic pictures made "
            "by scripts/train_demo.py.",
            draw_shapes,
            1,
            7_000,
            (),  # demo_transformer.py has its own course
            "VisionTransformer",
        ),
        Recipe(
            "lesion",
            LESION_LABELS,
            "labels/lesion.txt",
            _NOT_MEDICAL + "calls a painted lesion benign or suspicious.",
            draw_lesion,
            2,
            6_000,
            _LESION_STAGES,
        ),
        Recipe(
            "lesion-shortcut",
            LESION_LABELS,
            "labels/lesion.txt",
            _NOT_MEDICAL + "learned that a sticker means suspicious, to show what heatmaps reveal.",
            draw_lesion_shortcut,
            3,
            4_000,
            _LESION_STAGES,
        ),
    )
}


def as_input(
    image: Pictures, side: int = INPUT, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Pictures:
    """Shorter side to `side` (Pillow, bilinear, antialiased), centre crop: `[side, side, 3]`."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    shape = (round(width * scale), round(height * scale))
    resized = Image.fromarray(image).resize(shape, resample)
    left, top = (shape[0] - side) // 2, (shape[1] - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def make_pool(recipe: Recipe, workers: int = 2) -> tuple[Pictures, Targets]:
    """Draw the training pictures `[n, 224, 224, 4]`: colours, and class + 1 of what lies where.

    The pictures do not depend on the number of workers.
    """
    pictures = np.empty((recipe.pictures, INPUT, INPUT, 4), dtype=np.uint8)
    targets = np.empty((recipe.pictures, len(recipe.labels)), dtype=np.float32)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        made = pool.map(partial(_draw_one, recipe.name), range(recipe.pictures), chunksize=64)
        for index, (picture, target) in enumerate(made):
            pictures[index], targets[index] = picture, target
    return pictures, targets


def _draw_one(name: str, index: int) -> tuple[Pictures, Targets]:
    recipe = RECIPES[name]
    scene, target = recipe.draw(np.random.default_rng([recipe.seed, index]))
    classes = np.zeros((*scene.image.shape[:2], 1), dtype=np.uint8)
    for thing in scene.objects:
        classes[thing.mask] = thing.label + 1
    return _layers(np.concatenate([scene.image, classes], axis=2), INPUT), target


def _layers(picture: Pictures, side: int) -> Pictures:
    """Resize colours and classes, each in its own way."""
    colours = as_input(np.ascontiguousarray(picture[..., :3]), side)
    classes = as_input(np.ascontiguousarray(picture[..., 3]), side, Image.Resampling.NEAREST)
    return np.concatenate([colours, classes[..., None]], axis=2)


def shrunk(pictures: Pictures, side: int) -> Pictures:
    """The pool at another size."""
    if side == pictures.shape[1]:
        return pictures
    return np.stack([_layers(picture, side) for picture in pictures])


def cut(rng: np.random.Generator, pictures: Pictures, side: int) -> Pictures:
    """A window of `side` pixels from each of `[n, s, s, 4]`; eight share their place."""
    places = rng.integers(0, pictures.shape[1] - side + 1, size=(len(pictures) // 8 + 1, 2))
    windows = np.empty((len(pictures), side, side, 4), dtype=np.uint8)
    for index, picture in enumerate(pictures):
        y, x = places[index // 8]
        windows[index] = picture[y : y + side, x : x + side]
    return windows


def dominant_only(pictures: Pictures, targets: Targets) -> tuple[Pictures, Targets]:
    """Forget all objects but the one with the largest share."""
    winner = targets.argmax(axis=1)
    pictures[..., 3] *= pictures[..., 3] == winner[:, None, None] + 1
    return pictures, np.asarray(targets.max(axis=1, keepdims=True) == targets, dtype=np.float32)


def shares_of(windows: Pictures, classes: int) -> Targets:
    """Targets of cut windows, from the classes that are left in them."""
    present = [(windows[..., 3] == index + 1).sum(axis=(1, 2)) for index in range(classes)]
    return shares(np.stack(present, axis=1).astype(np.float64))
