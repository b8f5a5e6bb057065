"""Pictures that tests upload."""

from io import BytesIO

import numpy as np
from PIL import Image


def make_picture(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    """A smooth, colourful picture, the same for the same seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(picture: Image.Image, image_format: str = "JPEG") -> bytes:
    out = BytesIO()
    picture.save(out, image_format)
    return out.getvalue()


def make_upload(width: int = 120, height: int = 90, seed: int = 0) -> bytes:
    return encode(make_picture(width, height, seed))
