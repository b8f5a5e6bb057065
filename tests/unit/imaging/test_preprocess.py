"""The model sees what it was trained on: torchvision's transforms, pixel for pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from app.imaging.decode import Decoded
from app.imaging.preprocess import needed, preprocess
from app.types import Box, Interpolation, Pixels, Preprocess
from tests.unit.imaging.pictures import noise

SIZES = [(60, 40), (41, 61), (50, 50), (33, 32), (300, 7), (7, 300), (224, 224), (1, 1), (1, 9),
         (500, 10), (17, 171)]  # fmt: skip
MODES = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
}


def spec(
    resize: int | tuple[int, int], crop: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Preprocess:
    return Preprocess(
        resize=resize, crop=crop, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )


def whole(image: Image.Image) -> Decoded:
    return Decoded(image, *image.size, "PNG", 1)


def by_torchvision(image: Image.Image, how: Preprocess) -> Pixels:
    size = [how.resize] if isinstance(how.resize, int) else list(how.resize)
    resized = tv.resize(image, size, MODES[how.interpolation])
    return np.asarray(tv.center_crop(resized, list(how.crop)))


def agrees(size: tuple[int, int], how: Preprocess) -> None:
    image = noise(*size)
    pixels, _ = preprocess(whole(image), how, "crop")
    assert pixels.shape == (*how.crop, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, by_torchvision(image, how))


@pytest.mark.parametrize("interpolation", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_every_interpolation_equals_torchvisions(
    size: tuple[int, int], interpolation: Interpolation
) -> None:
    agrees(size, spec(37, (32, 32), interpolation))


@pytest.mark.parametrize("crop", [(32, 32), (31, 32), (48, 20), (64, 64), (65, 63), (1, 1)])
@pytest.mark.parametrize("resize", [32, 37, (40, 40), (33, 52), (20, 70)])
@pytest.mark.parametrize("size", SIZES[:6])
def test_every_resize_and_crop_equals_torchvisions_padding_included(
    size: tuple[int, int], resize: int | tuple[int, int], crop: tuple[int, int]
) -> None:
    agrees(size, spec(resize, crop))


SIDE = st.integers(1, 90)


@given(size=st.tuples(SIDE, SIDE), resize=st.one_of(SIDE, st.tuples(SIDE, SIDE)),
       crop=st.tuples(SIDE, SIDE))  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_any_geometry_equals_torchvisions(
    size: tuple[int, int], resize: int | tuple[int, int], crop: tuple[int, int]
) -> None:
    agrees(size, spec(resize, crop))


def test_the_presets_of_the_shipped_architectures_equal_torchvisions() -> None:
    agrees((600, 400), spec(232, (224, 224)))
    agrees((401, 599), spec(256, (224, 224), "bicubic"))


@pytest.mark.parametrize("size", [(60, 40), (41, 99), (32, 32)])
def test_the_full_view_squashes_the_whole_picture(size: tuple[int, int]) -> None:
    image = noise(*size)
    pixels, box = preprocess(whole(image), spec(40, (32, 48)), "full")
    assert np.array_equal(pixels, np.asarray(tv.resize(image, [32, 48])))
    assert box == Box(0, 0, *size)


def test_needed_is_what_the_resize_makes() -> None:
    assert needed(600, 400, spec(232, (224, 224)), "crop") == (348, 232)
    assert needed(600, 400, spec((90, 80), (64, 64)), "crop") == (80, 90)
    assert needed(600, 400, spec(232, (224, 200)), "full") == (200, 224)
