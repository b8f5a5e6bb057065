"""An upright picture becomes the model's input, pixel for pixel as torchvision's transforms do it.

Only up to uint8: the device turns a whole batch to float and normalises it at once.
"""

import numpy as np
from PIL import Image

from app.imaging.decode import Decoded
from app.imaging.geometry import Size, crop_offset, resized, seen
from app.types import Box, Pixels, Preprocess, View

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def needed(width: int, height: int, spec: Preprocess, view: View) -> Size:
    """The size that the model's input is cropped from: the least worth decoding."""
    return (spec.crop[1], spec.crop[0]) if view == "full" else resized(width, height, spec)


def preprocess(decoded: Decoded, spec: Preprocess, view: View) -> tuple[Pixels, Box]:
    """Resize and crop.

    Returns:
        The input, uint8 [H, W, 3], and the part of the upload that it shows.
    """
    resample = _FILTERS[spec.interpolation]
    height, width = spec.crop
    if view == "full":
        cropped = decoded.image.resize((width, height), resample)
    else:
        size = resized(decoded.width, decoded.height, spec)
        left, top = crop_offset(size, spec)
        # Pillow fills with black where the crop is larger than the picture, as torchvision does.
        cropped = decoded.image.resize(size, resample).crop((left, top, left + width, top + height))
    return np.asarray(cropped), seen(decoded.width, decoded.height, spec, view)
