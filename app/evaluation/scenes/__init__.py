"""Procedural pictures with exact object masks: endless, seeded, and made without torch.

`shapes_scene` and `lesion_scene` draw one picture from a random generator; the same generator
state gives the same picture bit for bit. Both are synthetic: nothing here is a photograph, and
the lesions are not medical pictures.
"""

from app.evaluation.scenes.lesion import LESION_LABELS, bare_skin, lesion_scene
from app.evaluation.scenes.shapes import SHAPE_LABELS, shapes_scene
from app.evaluation.scenes.types import Scene, SceneObject

__all__ = [
    "LESION_LABELS",
    "SHAPE_LABELS",
    "Scene",
    "SceneObject",
    "bare_skin",
    "lesion_scene",
    "shapes_scene",
]
