"""What a generated picture consists of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]


@dataclass(frozen=True)
class SceneObject:
    """One thing in a picture: its class index and the pixels that it covers, `[H, W]`."""

    label: int
    mask: Mask


@dataclass(frozen=True)
class Scene:
    """A picture `uint8 [H, W, 3]`, the objects in it, and the class of the dominant one.

    `objects` are sorted from the largest to the smallest and never overlap.
    `extras` are masks `[H, W]` of what belongs to no class: `sticker`, for instance.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    label: int
    extras: Mapping[str, Mask] = field(default_factory=dict)

    @property
    def mask(self) -> Mask:
        """Pixels of the dominant object, `[H, W]`."""
        return self.objects[0].mask
