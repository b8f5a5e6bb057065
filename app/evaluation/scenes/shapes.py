"""Cut-out shapes lying on a cluttered surface: one to four, each of a different class."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from app.evaluation.scenes import texture
from app.evaluation.scenes.texture import Points, Size
from app.evaluation.scenes.types import Field, Mask, Scene, SceneObject

SHAPE_LABELS = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "arrow")

# The dominant object covers at least this many times the area of any other.
DOMINANCE = 1.6
# Side of the square with an object's area, as a share of the picture's shorter side. The smallest
# still spans more than one cell of a 7x7 map, so that a map can point at it.
LARGEST_SIDE = (0.36, 0.56)
SMALLEST_SIDE = 0.23
ALONE_SIDE = 0.23
COARSE = 64


@dataclass(frozen=True)
class _Placed:
    label: int
    outline: Points  # [n, 2] (x, y) in pixels

    @property
    def area(self) -> float:
        """Square pixels inside the outline (the shoelace formula)."""
        return _area(self.outline)


def shapes_scene(
    rng: np.random.Generator,
    size: Size = (256, 256),
    n_objects: int | None = None,
    label: int | None = None,
) -> Scene:
    """Draw a picture of `n_objects` (1 to 4, random by default) shapes; `size` is (H, W).

    `label` fixes the class of the dominant shape. Where there is no room the picture holds fewer.
    """
    wanted = int(rng.integers(1, 5)) if n_objects is None else n_objects
    placed = _arrange(rng, size, wanted, label)
    picture = texture.paste(texture.surface(rng, size), texture.clutter(rng, size), blur=0.7)
    light = float(rng.uniform(0, 2 * np.pi))
    objects = []
    for item in placed:
        mask = _lay(rng, picture, item, light)
        objects.append(SceneObject(item.label, mask))
    return Scene(texture.photograph(rng, picture), tuple(objects), placed[0].label)


def _arrange(rng: np.random.Generator, size: Size, wanted: int, label: int | None) -> list[_Placed]:
    """Choose classes, sizes and places, the dominant shape first; retry crowded layouts."""
    best: list[_Placed] = []
    for _ in range(6):
        layout = _try_layout(rng, size, wanted, label)
        if len(layout) > len(best):
            best = layout
        if len(best) == wanted:
            break
    return sorted(best, key=lambda item: -item.area)


def _try_layout(
    rng: np.random.Generator, size: Size, wanted: int, label: int | None
) -> list[_Placed]:
    labels = rng.permutation(len(SHAPE_LABELS))
    if label is not None:
        labels = np.concatenate(([label], labels[labels != label]))
    unit = min(size)
    low = ALONE_SIDE if wanted == 1 else LARGEST_SIDE[0]
    side = float(rng.uniform(low, LARGEST_SIDE[1] - 0.04 * (wanted - 1)))
    # What keeps every other shape small enough beside the first.
    limit = max(SMALLEST_SIDE, min(side / (DOMINANCE * 1.08) ** 0.5, 0.34))
    taken = _footprint(np.full((2, 2), -9.0), size)
    layout: list[_Placed] = []
    for index in labels[:wanted]:
        room = _find_room(rng, size, int(index), side * unit, taken)
        if room is None:
            break
        layout.append(room)
        taken = taken | _footprint(room.outline, size)
        side = float(rng.uniform(SMALLEST_SIDE, limit))
    return layout


def _find_room(
    rng: np.random.Generator, size: Size, label: int, side: float, taken: Mask
) -> _Placed | None:
    """Turn the shape and look for a place inside the picture and clear of the others."""
    outline = _turned(rng, SHAPE_LABELS[label])
    outline = outline * (side / _area(outline) ** 0.5)
    unit = min(size)
    low = -outline.min(axis=0) + 3
    high = np.array([size[1], size[0]]) - outline.max(axis=0) - 3
    if (high <= low).any():
        return None
    places = rng.uniform(low, high, size=(40, 2))
    # Most places are ruled out by a corner on another shape; only the rest are drawn.
    x, y = (((places[:, None] + outline) * COARSE / unit).astype(int)).transpose(2, 0, 1)
    y, x = np.minimum(y, taken.shape[0] - 1), np.minimum(x, taken.shape[1] - 1)
    for place in places[~taken[y, x].any(axis=1)]:
        if not (taken & _footprint(outline + place, size)).any():
            return _Placed(label, outline + place)
    return None


def _footprint(outline: Points, size: Size) -> Mask:
    """The outline with a margin on a coarse grid: rough, and a hundred times cheaper."""
    scale = COARSE / min(size)
    canvas = Image.new("L", (round(size[1] * scale), round(size[0] * scale)))
    corners = [float(v) for v in (outline * scale).flat]
    draw = ImageDraw.Draw(canvas)
    draw.polygon(corners, fill=1)
    draw.line(corners + corners[:2], fill=1, width=2)
    return np.asarray(canvas, dtype=np.bool_)


def _lay(rng: np.random.Generator, picture: Field, item: _Placed, light: float) -> Mask:
    """Put one shape with its shadow on the picture, in place; its mask `[H, W]`."""
    height, width = picture.shape[1:]
    margin = 14
    x0, y0 = np.maximum(np.floor(item.outline.min(axis=0)).astype(int) - margin, 0)
    x1, y1 = np.minimum(np.ceil(item.outline.max(axis=0)).astype(int) + margin, (width, height))
    alpha = texture.coverage(item.outline - (x0, y0), (int(y1 - y0), int(x1 - x0)))
    patch = picture[:, y0:y1, x0:x1]
    ground = patch * (1 - _shadow(rng, alpha, light))
    base = _standing_out(rng, patch.mean(axis=(1, 2), keepdims=True))
    patch[:] = texture.mix(ground, _material(rng, base, alpha, light), alpha)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[y0:y1, x0:x1] = alpha > np.float32(0.5)
    return mask


def _shadow(rng: np.random.Generator, alpha: Field, light: float) -> Field:
    distance = rng.uniform(2, 7)
    shift = (round(-np.sin(light) * distance), round(-np.cos(light) * distance))
    soft = texture.blur_field(alpha, rng.uniform(1.5, 5))
    return np.roll(soft, shift, axis=(0, 1)) * np.float32(rng.uniform(0.2, 0.65))


def _standing_out(rng: np.random.Generator, ground: Field) -> Field:
    """Of three random colours the one least like the ground: a hidden shape teaches nothing."""
    tints = [texture.colour(rng, (0.1, 0.8), (0.25, 0.9)) for _ in range(3)]
    return max(tints, key=lambda tint: float(np.abs(tint - ground).sum()))


def _material(rng: np.random.Generator, base: Field, alpha: Field, light: float) -> Field:
    """Colour, grain and a lit, rounded edge: `[3, h, w]`."""
    size = (alpha.shape[0], alpha.shape[1])
    second = np.clip(base * rng.uniform(0.55, 1.35) + rng.normal(0, 0.04, size=(3, 1, 1)), 0, 1)
    start = [(2, 2), (2, 12), (4, 4)][rng.integers(3)]
    grain = texture.noise(rng, size, start, rng.uniform(0.5, 0.85), finest=1)
    contrast = np.float32(rng.uniform(0.5, 2))
    body = texture.mix(base, second.astype(np.float32), texture.sigmoid(grain * contrast))
    slope_y, slope_x = np.gradient(texture.blur_field(alpha, rng.uniform(2, 6)))
    lit = -(slope_y * np.float32(np.sin(light)) + slope_x * np.float32(np.cos(light)))
    shade = 1 + lit * np.float32(rng.uniform(1, 6)) + texture.ramp(rng, size) * np.float32(0.1)
    return body * np.clip(shade, 0.35, 1.7)


def _turned(rng: np.random.Generator, name: str) -> Points:
    """The outline of a class, turned by any angle and slightly squeezed."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeeze = np.array([1.0, rng.uniform(0.88, 1.0)])
    return np.asarray(_OUTLINES[name] * squeeze @ turn)


def _area(outline: Points) -> float:
    """Area inside a polygon `[n, 2]` (the shoelace formula)."""
    x, y = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _polar(radii: Points, n: int) -> Points:
    angles = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1) / 16


def _moon() -> Points:
    """A fat crescent: a disc less a smaller disc that reaches to its middle."""
    cut, radius = 0.78, 0.72
    corner = (1 + cut**2 - radius**2) / (2 * cut)
    outer, inner = np.arccos(corner), np.arccos((cut - corner) / radius)
    long = np.linspace(outer, 2 * np.pi - outer, 40)
    short = np.linspace(np.pi + inner, np.pi - inner, 24)
    bite = np.stack([cut + radius * np.cos(short), radius * np.sin(short)], axis=1)
    return np.concatenate([np.stack([np.cos(long), np.sin(long)], axis=1), bite])


def _corners(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=np.float64)


_OUTLINES: dict[str, Points] = {
    "circle": _polar(np.ones(48), 48),
    "square": _corners((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": _polar(np.ones(3), 3),
    "star": _polar(np.tile([1.0, 0.5], 5), 10),
    "heart": _heart(),
    "cross": _corners(
        (-0.38, -1),
        (0.38, -1),
        (0.38, -0.38),
        (1, -0.38),
        (1, 0.38),
        (0.38, 0.38),
        (0.38, 1),
        (-0.38, 1),
        (-0.38, 0.38),
        (-1, 0.38),
        (-1, -0.38),
        (-0.38, -0.38),
    ),
    "moon": _moon(),
    "arrow": _corners(
        (1, 0), (0.1, 0.85), (0.1, 0.42), (-1, 0.42), (-1, -0.42), (0.1, -0.42), (0.1, -0.85)
    ),
}
