"""Pictures to test with, and the files they are saved as."""

import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.imaging.decode import Decoded, decode

EXIF_ORIENTATION = 0x0112
LOSSLESS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True, "exact": True}}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Pure pixel noise: the worst case for every resize and every codec."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@cache
def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """As photographs are: detail that falls with its frequency, hard edges, some sensor noise."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 10):
        coarse = rng.integers(0, 256, (2**octave, 2**octave, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture += np.asarray(layer, np.float32) / 2**octave
    picture = (picture - picture.mean()) / picture.std() * 45 + 120
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        w, h = rng.integers(8, width // 4), rng.integers(8, height // 4)
        picture[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    picture += rng.normal(0, 3, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, name: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, name, **{**LOSSLESS.get(name, {}), **options})
    return out.getvalue()


def png(
    size: tuple[int, int], depth: int, color: int, rows: bytes, *more: tuple[bytes, bytes]
) -> bytes:
    """A PNG by hand. ``rows`` are unfiltered, each behind its zero byte; ``more`` are chunks."""
    head = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags.tobytes()


def read(data: bytes, max_pixels: int = 1_000_000) -> Decoded:
    """Decode in full size."""
    return decode(data, max_pixels=max_pixels, needed=lambda width, height: (width, height))


def levels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)
