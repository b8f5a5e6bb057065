"""Pictures to evaluate on: of each a class, and where the evidence for it should lie."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.errors import SetupError
from app.evaluation.scenes import Scene, lesion_scene, shapes_scene

_FRESH = 91_000  # seeds begin with it: no training has drawn from these
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}


@dataclass(frozen=True, slots=True)
class Question:
    """Does the map of ``class_name`` lie inside the mask? Both pictures are files' contents."""

    image: bytes
    mask: bytes
    class_name: int | str


def fresh(model: str, n: int, seed: int) -> list[Question]:
    """Questions about scenes that are drawn now: of ``shapes`` two to four objects, each asked for.

    Raises:
        SetupError: there are no scenes for that model.
    """
    if model not in _SCENES:
        raise SetupError(
            f"there are no scenes for {model!r}; name a folder of pictures with masks beside them"
        )
    drawn = _scenes(_SCENES[model], seed)
    return [question for question, _ in zip(drawn, range(n), strict=False)]


def of_folder(folder: Path) -> list[Question]:
    """Pictures of a folder, with masks beside them: ``x.jpg`` and ``x.mask.png``; of the top class.

    Raises:
        SetupError: there is none.
    """
    pairs = [
        (file, file.with_name(f"{file.stem}.mask.png"))
        for file in sorted(folder.glob("*"))
        if file.suffix.lower() in _SUFFIXES and not file.stem.endswith(".mask")
    ]
    questions = [
        Question(image.read_bytes(), mask.read_bytes(), "top1")
        for image, mask in pairs
        if mask.exists()
    ]
    if not questions:
        raise SetupError(f"{folder}: no picture has a mask beside it (x.jpg and x.mask.png)")
    return questions


def _scenes(draw: Callable[[np.random.Generator], Scene], seed: int) -> Iterator[Question]:
    for number in count():
        scene = draw(np.random.default_rng([_FRESH, seed, number]))
        image = _file(scene.image)
        for thing in scene.objects:
            yield Question(image, _file(thing.mask.astype(np.uint8) * 255), thing.label)


def _crowded(rng: np.random.Generator) -> Scene:
    return shapes_scene(rng, n_objects=int(rng.integers(2, 5)))


def _with_sticker(rng: np.random.Generator) -> Scene:
    return lesion_scene(rng, sticker=True)


_SCENES = {
    "shapes": _crowded,
    "shapes-vit": _crowded,
    "lesion": _with_sticker,
    "lesion-shortcut": _with_sticker,
}


def _file(pixels: NDArray[np.uint8]) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()
