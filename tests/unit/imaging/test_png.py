"""What is written as PNG others read back, pixel for pixel."""

import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.imaging.png import Levels, palette_png, rgb_png
from tests.unit.imaging.pictures import levels

LARGE = (640, 800)  # over what is left to fpng
SIZES = [(1, 1), (1, 7), (7, 1), (3, 5), (400, 600), LARGE]


def noise(*shape: int) -> Levels:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def opened(data: bytes) -> Image.Image:
    image = Image.open(BytesIO(data), formats=("PNG",))
    image.load()
    return image


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_comes_back_as_it_was(size: tuple[int, int]) -> None:
    pixels = noise(*size, 3)
    image = opened(rgb_png(pixels))
    assert image.mode == "RGB"
    assert np.array_equal(levels(image), pixels)


@pytest.mark.parametrize("size", SIZES)
def test_a_palette_picture_comes_back_with_its_colours_and_its_opacity(
    size: tuple[int, int],
) -> None:
    indices, palette, opacity = noise(*size), noise(256, 3), noise(256)
    image = opened(palette_png(indices, palette, opacity))
    assert image.mode == "P"
    assert np.array_equal(levels(image), indices)
    shown = levels(image.convert("RGBA"))
    assert np.array_equal(shown[..., :3], palette[indices])
    assert np.array_equal(shown[..., 3], opacity[indices])


def test_what_comes_again_takes_less_and_a_small_window_suffices_to_read_it() -> None:
    pixels = np.tile(noise(1, 40, 3), (640, 20, 1))
    data = rgb_png(pixels)
    assert len(data) < pixels.nbytes / 2
    assert np.array_equal(levels(opened(data)), pixels)
    deflated = data[data.index(b"IDAT") + 4 :]
    assert zlib.decompressobj(wbits=11).decompress(deflated)  # in 2 kB, or it would be an error


def test_a_view_that_is_not_contiguous_is_written_too() -> None:
    pixels = noise(9, 8, 3)[::2, ::-1]
    assert np.array_equal(levels(opened(rgb_png(pixels))), pixels)


@pytest.mark.parametrize("size", [(4, 4), LARGE])
def test_the_checksums_are_those_that_a_strict_reader_wants(size: tuple[int, int]) -> None:
    data = rgb_png(noise(*size, 3))
    place, kinds = 8, []
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        assert zlib.crc32(data[place + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])
        kinds.append(data[place + 4 : place + 8])
        place = end
    critical = [kind for kind in kinds if kind[:1].isupper()]  # the others may be passed over
    assert critical == [b"IHDR", b"IDAT", b"IEND"]
