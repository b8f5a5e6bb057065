"""Synthetic pictures in the manner of skin lesions. They are not medical and teach no diagnosis.

A benign one is round, smooth and even; a suspicious one is lopsided, ragged and of several
colours. Rulers, ink marks, stickers and hair are equally likely beside both.
"""

import numpy as np
from PIL import Image, ImageDraw

from app.evaluation.scenes import texture
from app.evaluation.scenes.texture import Points, Size
from app.evaluation.scenes.types import Field, Mask, Scene, SceneObject

LESION_LABELS = ("benign", "suspicious")
SUSPICIOUS = 1

# Share of the (shorter side squared) picture that a lesion covers.
LESION_AREA = (0.15, 0.36)
STICKER_RADIUS = (0.075, 0.11)
STICKER_GAP = 0.07


def lesion_scene(
    rng: np.random.Generator,
    size: Size = (256, 256),
    label: int | None = None,
    sticker: bool | None = None,
) -> Scene:
    """Draw a lesion of class `label` on skin, with or without a sticker; `size` is (H, W).

    What is None is drawn at random, the sticker without regard to the class.
    """
    label = int(rng.integers(len(LESION_LABELS))) if label is None else label
    sticker = texture.chance(rng, 0.5) if sticker is None else sticker
    outline = _place(rng, size, _outline(rng, label))
    skin, tone = _skin(rng, size)
    skin = _with_marks(rng, skin, outline)
    picture, mask = _with_lesion(rng, skin, outline, label, tone)
    extras: dict[str, Mask] = {}
    if sticker:
        picture, extras["sticker"] = _with_sticker(rng, picture, outline)
    picture = _with_hair(rng, picture)
    return Scene(texture.photograph(rng, picture), (SceneObject(label, mask),), label, extras)


def bare_skin(rng: np.random.Generator, size: Size = (256, 256), sticker: bool = False) -> Scene:
    """Skin without a lesion, perhaps with a sticker: a picture that speaks for neither class."""
    picture, _ = _skin(rng, size)
    nowhere: Points = np.array([[-1e3, -1e3]])
    picture = _with_marks(rng, picture, nowhere)
    extras: dict[str, Mask] = {}
    if sticker:
        picture, extras["sticker"] = _with_sticker(rng, picture, nowhere)
    picture = _with_hair(rng, picture)
    return Scene(texture.photograph(rng, picture), (), -1, extras)


def _outline(rng: np.random.Generator, label: int) -> Points:
    """A closed contour `[n, 2]` of area 1 about the origin."""
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    if label == SUSPICIOUS:
        orders = np.arange(2, 40)
        weights = rng.uniform(0.26, 0.4) / orders**1.15
    else:
        orders, weights = np.arange(2, 6), np.array([0.06, 0.03, 0.015, 0.01])
    phases = rng.uniform(0, 2 * np.pi, size=len(orders))
    strengths = weights * rng.uniform(0.4, 1.0, size=len(orders))
    waves = strengths[:, None] * np.cos(orders[:, None] * angles + phases[:, None])
    radii = np.clip(1 + waves.sum(axis=0), 0.35, 1.9)
    radii = radii / np.sqrt(np.pi * (radii**2).mean())
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _place(rng: np.random.Generator, size: Size, outline: Points) -> Points:
    """Scale the contour and move it to a random place inside the picture."""
    unit, room = min(size), np.array([size[1], size[0]])
    outline = outline * np.sqrt(rng.uniform(*LESION_AREA)) * unit
    extent = (outline.max(axis=0) - outline.min(axis=0)).max()
    outline = outline * min(1.0, 0.8 * unit / extent)
    low = -outline.min(axis=0) + 0.03 * unit
    high = room - outline.max(axis=0) - 0.03 * unit
    return np.asarray(outline + rng.uniform(low, high))


def _skin(rng: np.random.Generator, size: Size) -> tuple[Field, Field]:
    """Skin `[3, H, W]` with blotches, pores and creases, and its tone `[3, 1, 1]`."""
    shades = np.array([[0.96, 0.80, 0.71], [0.86, 0.66, 0.53], [0.72, 0.51, 0.38]])
    tone = (shades.T @ rng.dirichlet([1.5, 1.5, 0.8])).astype(np.float32)[:, None, None]
    ruddy = tone * _triple(1.03, 0.86, 0.83)
    blotches = texture.sigmoid(texture.noise(rng, size, (3, 3), 0.5, finest=4) - 1)
    picture = texture.mix(tone, ruddy, blotches)
    start = ((12, 20), (20, 12))[rng.integers(2)]
    creases = np.abs(texture.noise(rng, size, start, 0.8, finest=2))
    pores = texture.noise(rng, size, (32, 32), 1.0, finest=2)
    relief = creases * np.float32(0.018) + pores * np.float32(0.012)
    return picture * (1 + relief), tone


def _triple(red: float, green: float, blue: float) -> Field:
    return np.array([red, green, blue], dtype=np.float32)[:, None, None]


def _with_lesion(
    rng: np.random.Generator, skin: Field, outline: Points, label: int, tone: Field
) -> tuple[Field, Mask]:
    """Pigment inside the contour; also the mask of the lesion `[H, W]`."""
    alpha = texture.coverage(outline, (skin.shape[1], skin.shape[2]))
    (x0, y0), (x1, y1) = outline.min(axis=0).astype(int), outline.max(axis=0).astype(int)
    window = np.s_[..., max(y0 - 12, 0) : y1 + 12, max(x0 - 12, 0) : x1 + 12]
    near = alpha[window]
    patch, size = skin[window], (near.shape[0], near.shape[1])
    if label == SUSPICIOUS:
        edge = texture.blur_field(near, rng.uniform(1.0, 2.2))
        pigment = _several_colours(rng, size, tone)
    else:
        edge = texture.blur_field(near, rng.uniform(2, 5))
        pigment = _even_brown(rng, size, tone, near)
    relief = patch / patch.mean(axis=(1, 2), keepdims=True)
    pigment = pigment * (np.float32(0.4) + np.float32(0.6) * relief)
    picture = skin.copy()
    picture[window] = texture.mix(patch, pigment, edge * np.float32(rng.uniform(0.86, 0.97)))
    return picture, alpha > np.float32(0.5)


def _brown(rng: np.random.Generator, tone: Field, depth: tuple[float, float]) -> Field:
    """A brown `[3, 1, 1]` that is darker than the skin around it."""
    warm = rng.normal(1, 0.04, size=(3, 1, 1)).astype(np.float32)
    return tone * _triple(0.66, 0.52, 0.42) * warm * np.float32(rng.uniform(*depth))


def _even_brown(rng: np.random.Generator, size: Size, tone: Field, alpha: Field) -> Field:
    """One brown, darker towards the middle, with a fine regular net."""
    base = _brown(rng, tone, (0.75, 1.15))
    core = texture.blur_field(alpha, 0.1 * min(size))
    net = np.abs(texture.noise(rng, size, (16, 16), 0.7, finest=2)) - 1
    cloud = texture.noise(rng, size, (4, 4), 0.5, finest=4)
    grain = net * np.float32(rng.uniform(0.03, 0.09)) + cloud * np.float32(0.035)
    return base * (np.float32(1.12) + grain - core * np.float32(rng.uniform(0.1, 0.35)))


def _several_colours(rng: np.random.Generator, size: Size, tone: Field) -> Field:
    """Patches of browns, black, slate blue, red and pale scar, with dark dots: `[3, H, W]`."""
    accents = (
        _triple(0.13, 0.09, 0.08),
        _tempered(tone, _triple(0.27, 0.31, 0.38)),
        _tempered(tone, _triple(0.45, 0.17, 0.13)),
        _tempered(tone, _triple(0.76, 0.62, 0.56)),
    )
    blend = texture.sigmoid(texture.noise(rng, size, (4, 4), 0.7, finest=2) * 3)
    picture = texture.mix(_brown(rng, tone, (0.7, 1.0)), _brown(rng, tone, (0.25, 0.5)), blend)
    for index in rng.permutation(len(accents))[: rng.integers(2, 4)]:
        patch = texture.noise(rng, size, (4, 4), 0.65, finest=2)
        weight = texture.sigmoid(patch * np.float32(rng.uniform(2, 4)) - 2) * np.float32(0.75)
        picture = texture.mix(picture, accents[index], weight)
    dots = texture.sigmoid(texture.noise(rng, size, (20, 20), 0.7, finest=2) * 5 - 10)
    return texture.mix(picture, accents[0], dots * np.float32(rng.uniform(0.3, 0.9)))


def _tempered(tone: Field, accent: Field) -> Field:
    """An accent tempered by the skin's own tone."""
    return accent * np.float32(0.75) + tone * np.float32(0.25) * accent


def _with_sticker(rng: np.random.Generator, picture: Field, outline: Points) -> tuple[Field, Mask]:
    """A coloured patch beside the lesion, as clear of it as there is room; also its mask."""
    size = (picture.shape[1], picture.shape[2])
    unit = min(size)
    radius = rng.uniform(*STICKER_RADIUS) * unit
    spot, free = _free_spot(rng, size, outline, radius + STICKER_GAP * unit)
    alpha = texture.coverage(_sticker_outline(rng, min(radius, free - 3)) + spot, size)
    shadow = texture.blur_field(alpha, 2.5) * np.float32(0.3)
    hue = rng.choice([0.0, 0.12, 0.33, 0.45, 0.6, 0.68, 0.78, 0.9]) + rng.normal(0, 0.015)
    tint = texture.hsv(hue % 1, rng.uniform(0.65, 0.95), rng.uniform(0.55, 0.95))
    sheen = texture.ramp(rng, size) * np.float32(0.12)
    paper = tint * (1 + sheen)
    picture = texture.mix(picture * (1 - shadow), paper, alpha)
    return picture, alpha > np.float32(0.5)


def _free_spot(
    rng: np.random.Generator, size: Size, outline: Points, wanted: float
) -> tuple[Points, float]:
    """A random place (x, y) `wanted` pixels clear of the contour, or the clearest; its distance."""
    edge = STICKER_RADIUS[0] * min(size)
    spots = rng.uniform(edge, (size[1] - edge, size[0] - edge), size=(80, 2))
    gaps = np.hypot(*(spots[:, None] - outline).transpose(2, 0, 1))  # [spots, n]
    middle = outline.mean(axis=0)
    nearest = outline[gaps.argmin(axis=1)]
    outside = np.hypot(*(spots - middle).T) > np.hypot(*(nearest - middle).T)
    free = np.where(outside, gaps.min(axis=1), -1.0)
    best = int(np.argmax(np.minimum(free, wanted)))
    return spots[best], float(free[best])


def _sticker_outline(rng: np.random.Generator, radius: float) -> Points:
    """A disc or a square with rounded corners, `[n, 2]`, within `radius` of the origin."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if texture.chance(rng, 0.5):
        return circle * radius
    power = np.sign(circle) * np.abs(circle) ** 0.45
    turn = rng.uniform(0, np.pi / 2)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return np.asarray(power / np.hypot(*power.T).max() * radius @ rotation)


def _with_marks(rng: np.random.Generator, picture: Field, outline: Points) -> Field:
    """Perhaps a line of ink on the skin, and a ruler along a side that the lesion leaves free."""
    height, width = picture.shape[1:]
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    if texture.chance(rng, 0.3):
        _ink(rng, draw, (height, width), outline)
    if texture.chance(rng, 0.35):
        _ruler(rng, draw, (height, width), outline)
    return texture.paste(picture, layer, blur=0.5)


def _ink(rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: Size, outline: Points) -> None:
    """A surgeon's pen: an arc around the lesion, or a stroke anywhere."""
    tint = (*(int(v) for v in rng.uniform((30, 20, 90), (90, 60, 170))), 190)
    low, high = outline.min(axis=0), outline.max(axis=0)
    if low.min() < 0:
        low, high = np.array([0.2, 0.2]) * size[::-1], np.array([0.8, 0.8]) * size[::-1]
    pad = 0.06 * min(size)
    box = [*(low - pad), *(high + pad)]
    start = rng.uniform(0, 360)
    width = int(rng.integers(2, 5))
    draw.arc(box, start, start + rng.uniform(40, 130), fill=tint, width=width)


def _ruler(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, size: Size, outline: Points
) -> None:
    """A strip with ticks along the first of the sides, in random order, that has room for it."""
    (height, width), unit = size, min(size)
    depth, step = unit * rng.uniform(0.07, 0.11), unit * rng.uniform(0.022, 0.034)
    (left, top), (right, bottom) = outline.min(axis=0), outline.max(axis=0)
    room = np.array([top, height - bottom, left, width - right])
    free = [side for side in rng.permutation(4) if abs(room[side]) > depth]
    if not free:
        return
    lies, far_side = free[0] in (0, 1), free[0] in (1, 3)
    length, across = (width, height) if lies else (height, width)

    def box(a0: float, a1: float, d0: float, d1: float) -> list[float]:
        """Along and across the strip, turned to the chosen side."""
        near, far = (across - d1, across - d0) if far_side else (d0, d1)
        return [a0, near, a1, far] if lies else [near, a0, far, a1]

    draw.rectangle(box(0, length, 0, depth), fill=(236, 234, 226, 240))
    for index in range(int(length / step) + 1):
        long = depth * (0.62 if index % 5 == 0 else 0.34)
        at = index * step
        draw.rectangle(box(at, at + 0.8, depth - long, depth), fill=(40, 40, 44, 235))


def _with_hair(rng: np.random.Generator, picture: Field) -> Field:
    """In half of the pictures three to a dozen fine curved hairs."""
    height, width = picture.shape[1:]
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    count = int(rng.integers(3, 14)) if texture.chance(rng, 0.5) else 0
    tint = (*(int(v) for v in np.array([52, 36, 28]) * rng.uniform(0.5, 1.6)), 190)
    lean = rng.uniform(0, np.pi)
    for _ in range(count):
        steps = lean + rng.normal(0, 0.35) + rng.normal(0, 0.13) * np.arange(9)
        reach = min(height, width) * rng.uniform(0.03, 0.07)
        xs = rng.uniform(0, width) + reach * np.cos(steps).cumsum()
        ys = rng.uniform(0, height) + reach * np.sin(steps).cumsum()
        draw.line([float(v) for v in np.stack([xs, ys], axis=1).flat], fill=tint, width=1)
    return texture.paste(picture, layer)
