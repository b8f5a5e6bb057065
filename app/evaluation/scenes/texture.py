"""Photo-like surfaces: fields `float32 [H, W]` and pictures `float32 [3, H, W]` in [0, 1].

Noise is grown from a coarse grid by doubling and adding detail, which costs little more than the
last doubling alone, and pictures keep colours outermost, where numpy is fastest: evaluation can
afford to draw fresh pictures.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from app.evaluation.scenes.types import Field

Size = tuple[int, int]
Range = tuple[float, float]
Points = NDArray[np.float64]
OVERSAMPLING = 4


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Toss a coin that comes up true with the given probability."""
    return bool(rng.uniform() < probability)


def resize_field(values: Field, size: Size) -> Field:
    """Resample `[h, w]` to `size` = (H, W), bicubic."""
    picture = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32)


def noise(
    rng: np.random.Generator,
    size: Size,
    start: Size = (3, 3),
    roughness: float = 0.5,
    finest: int = 2,
) -> Field:
    """Fractal noise `[H, W]` with mean 0 and deviation 1.

    `start` is the coarsest grid (uneven ones give grain), each doubling adds detail `roughness`
    times weaker than the last, and `finest` is the size in pixels of the smallest detail.
    """
    grid, (height, width) = start, size
    field = rng.standard_normal(grid, dtype=np.float32)
    amplitude = 1.0
    while grid[0] * 2 * finest <= height or grid[1] * 2 * finest <= width:
        grid = (min(grid[0] * 2, height), min(grid[1] * 2, width))
        amplitude *= roughness
        detail = rng.standard_normal(grid, dtype=np.float32)
        field = resize_field(field, grid) + np.float32(amplitude) * detail
    field = resize_field(field, size)
    deviation: np.float32 = field.std() + np.float32(1e-6)
    return np.asarray((field - field.mean()) / deviation, dtype=np.float32)


def ramp(rng: np.random.Generator, size: Size) -> Field:
    """A plane `[H, W]` that rises from -1 to 1 in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None] * np.float32(np.sin(angle))
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :] * np.float32(np.cos(angle))
    steepness = np.float32(abs(np.sin(angle)) + abs(np.cos(angle)))
    return np.asarray((x + y) / steepness, dtype=np.float32)


def mix(a: Field, b: Field, weight: Field) -> Field:
    """Blend two colours `[3, 1, 1]` or pictures `[3, H, W]` by a field `[H, W]` in [0, 1]."""
    return a + (b - a) * weight


def sigmoid(values: Field) -> Field:
    """A soft threshold, from any range to [0, 1]."""
    return np.float32(1) / (np.float32(1) + np.exp(-values))


def blur_field(values: Field, radius: float) -> Field:
    """Gaussian blur of a field in [0, 1], by way of 8 bits: shading does not notice."""
    picture = Image.fromarray((values * np.float32(255)).astype(np.uint8))
    return to_field(picture.filter(ImageFilter.GaussianBlur(radius)))


def to_field(band: Image.Image) -> Field:
    """One 8-bit band as a field `[H, W]` in [0, 1]."""
    return np.asarray(band, dtype=np.float32) / np.float32(255)


def coverage(points: Points, size: Size) -> Field:
    """How much of each pixel the polygon `[n, 2]` of (x, y) covers: `[H, W]` in [0, 1]."""
    canvas = Image.new("L", (size[1] * OVERSAMPLING, size[0] * OVERSAMPLING))
    corners = [float(v) for v in (points * OVERSAMPLING).ravel()]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return to_field(canvas.reduce(OVERSAMPLING))


def hsv(hue: float, saturation: float, value: float) -> Field:
    """A colour `[3, 1, 1]` from hue (cyclic), saturation and value in [0, 1]."""
    wheel = np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1
    tint = value * (1 - saturation * (1 - np.clip(wheel, 0, 1)))
    return np.asarray(tint, dtype=np.float32)[:, None, None]


def colour(rng: np.random.Generator, saturation: Range, value: Range) -> Field:
    """A random colour `[3, 1, 1]` from ranges of saturation and brightness."""
    return hsv(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def surface(rng: np.random.Generator, size: Size) -> Field:
    """A background `[3, H, W]`: stone, wood, earth, moss or cloth, in colours that go together."""
    start = [(3, 3), (2, 20), (20, 2), (5, 5), (12, 12)][rng.integers(5)]
    # Earth and foliage are what most photographs have behind things; any hue, but paler, is cloth.
    natural = chance(rng, 0.7)
    hue = rng.uniform(0.05, 0.3) if natural else rng.uniform()
    saturation = rng.uniform(0.05, 0.5 if natural else 0.35)
    tones = [
        hsv(hue + rng.normal(0, 0.03), saturation * rng.uniform(0.6, 1.3), value)
        for value in rng.uniform(0.2, 0.8) + np.array([-0.13, 0.0, 0.13])
    ]
    first = noise(rng, size, start, rng.uniform(0.55, 0.85))
    second = noise(rng, size, start, 0.7, finest=4)
    picture = mix(tones[0], tones[1], sigmoid(first * np.float32(rng.uniform(0.8, 2.2))))
    picture = mix(picture, tones[2], sigmoid(second * 2 - 1))
    return picture * weave(rng, size) if chance(rng, 0.25) else picture


def weave(rng: np.random.Generator, size: Size) -> Field:
    """The brightness `[H, W]` of threads, or of tiles where the period is long."""
    period = rng.uniform(3.5, 24)
    depth = np.float32(rng.uniform(0.03, 0.1))
    y = np.sin(np.arange(size[0], dtype=np.float32) * np.float32(2 * np.pi / period))
    x = np.sin(np.arange(size[1], dtype=np.float32) * np.float32(2 * np.pi / period))
    return np.asarray(1 + depth * (y[:, None] + x[None, :]), dtype=np.float32)


def clutter(rng: np.random.Generator, size: Size) -> Image.Image:
    """Twigs, pebbles and scraps as an RGBA layer: things that are no object of any class."""
    height, width = size
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    unit = min(size)
    for _ in range(rng.integers(4, 30)):
        hue = rng.uniform(0.02, 0.35) if chance(rng, 0.8) else rng.uniform()
        tint = hsv(hue, rng.uniform(0.05, 0.6), rng.uniform(0.1, 0.9))
        fill = (*(int(v * 255) for v in tint.flat), int(rng.integers(60, 230)))
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        if chance(rng, 0.6):
            draw.line(_twig(rng, x, y, unit), fill=fill, width=int(rng.integers(1, 5)))
        else:
            draw.polygon(_scrap(rng, x, y, unit * rng.uniform(0.008, 0.035)), fill=fill)
    return layer


def _twig(rng: np.random.Generator, x: float, y: float, unit: float) -> list[float]:
    """A bent line from (x, y) across up to half of the picture."""
    angles = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.35, size=6).cumsum()
    step = unit * rng.uniform(0.02, 0.1)
    xs, ys = x + step * np.cos(angles).cumsum(), y + step * np.sin(angles).cumsum()
    return [float(v) for v in np.stack([xs, ys], axis=1).flat]


def _scrap(rng: np.random.Generator, x: float, y: float, radius: float) -> list[float]:
    """A small uneven blob."""
    angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    radii = radius * rng.uniform(0.5, 1.5, size=9)
    xs = x + radii * rng.uniform(0.6, 2.2) * np.cos(angles)
    return [float(v) for v in np.stack([xs, y + radii * np.sin(angles)], axis=1).flat]


def paste(picture: Field, layer: Image.Image, blur: float = 0.0) -> Field:
    """Lay an RGBA layer, softened by `blur` pixels, over a picture `[3, H, W]`."""
    if layer.getchannel("A").getbbox() is None:
        return picture
    red, green, blue, alpha = layer.split()
    # Colours stay sharp: where the softened edge spreads, the layer's own black would show.
    weight = to_field(alpha.filter(ImageFilter.GaussianBlur(blur)))
    weight = np.minimum(weight, to_field(alpha))
    return mix(picture, np.stack([to_field(band) for band in (red, green, blue)]), weight)


def photograph(rng: np.random.Generator, picture: Field) -> NDArray[np.uint8]:
    """What a camera makes of a scene `[3, H, W]`: uneven light, tint, grain; `uint8 [H, W, 3]`."""
    size = (picture.shape[1], picture.shape[2])
    light = 1 + np.float32(rng.uniform(0, 0.35)) * ramp(rng, size)
    light = light * vignette(size, rng.uniform(0, 0.4)) * np.float32(rng.uniform(0.75, 1.15))
    tint = rng.normal(1, 0.035, size=(3, 1, 1)).astype(np.float32)
    grain = rng.standard_normal(size, dtype=np.float32) * np.float32(rng.uniform(0.003, 0.03))
    shot = (picture * light * tint + grain) * np.float32(255)
    return np.ascontiguousarray(np.clip(shot, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def vignette(size: Size, depth: float) -> Field:
    """Brightness `[H, W]` that falls by `depth` towards the corners."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None, :]
    return 1 - np.float32(depth / 2) * (x * x + y * y)
