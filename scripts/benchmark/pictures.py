"""What is uploaded: textured synthetic scenes as JPEG, of several sizes, the same in every run."""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZES = {"0.1": (380, 260), "0.24": (600, 400), "2": (1600, 1250), "12": (4000, 3000)}
COUNT = 4  # of different pictures of each size
_QUALITY = 90
_OCTAVES = (4, 12, 40, 130)  # cells across: from large areas to fine texture


def make_pictures(folder: Path, size: str) -> list[Path]:
    """The files of a size in megapixels; made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{size}-{seed}.jpg" for seed in range(COUNT)]
    for seed, file in enumerate(files):
        if not file.exists():
            file.write_bytes(encode(scene(*SIZES[size], seed)))
    return files


def scene(width: int, height: int, seed: int) -> Image.Image:
    """A few objects on a background that is rough at every scale: it compresses as a photo does."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), "grey")
    for number, cells in enumerate(_OCTAVES):
        picture = Image.blend(picture, _noise(rng, width, height, cells), 0.5 / (1 + number / 2))
    draw = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = rng.uniform(0, 0.8, 2) * (width, height)
        side = float(rng.uniform(0.08, 0.25) * width)
        color = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle  # noqa: PLR2004 - a coin
        shape((x, y, x + side, y + side), fill=color)
    return picture


def encode(picture: Image.Image) -> bytes:
    out = BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Image.Image:
    down = max(2, cells * height // width)
    coarse = rng.integers(0, 256, (down, cells, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
