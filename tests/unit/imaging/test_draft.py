"""Large JPEGs are decoded small: how far the model's input may differ, and from when on."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional as tv

from app.imaging.decode import DRAFT_MARGIN, Decoded, decode
from app.imaging.preprocess import needed, preprocess
from app.types import Interpolation, Preprocess
from tests.unit.imaging.pictures import exif, levels, noise, photo, read, saved

SPEC = Preprocess(resize=64, crop=(56, 56), mean=(0, 0, 0), std=(1, 1, 1))


def for_the_model(data: bytes, spec: Preprocess = SPEC) -> Decoded:
    return decode(
        data,
        max_pixels=10_000_000,
        needed=lambda width, height: needed(width, height, spec, "crop"),
    )


def difference(data: bytes, spec: Preprocess) -> NDArray[np.int64]:
    """Of the model's input from that of a full decode, in levels of 255."""
    drafted, full = for_the_model(data, spec), read(data, max_pixels=10_000_000)
    assert drafted.image.width < full.image.width
    return np.abs(
        preprocess(drafted, spec, "crop")[0].astype(np.int64)
        - preprocess(full, spec, "crop")[0].astype(np.int64)
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
@pytest.mark.parametrize("size", [(1280, 930), (1000, 1401), (1900, 1100)])
def test_photos_differ_by_less_than_the_stated_tolerance(
    size: tuple[int, int], subsampling: str, interpolation: Interpolation
) -> None:
    spec = SPEC.model_copy(
        update={"resize": 232, "crop": (224, 224), "interpolation": interpolation}
    )
    levels_off = difference(saved(photo(*size), "JPEG", quality=90, subsampling=subsampling), spec)
    assert levels_off.mean() <= 0.5
    assert levels_off.max() <= 40


def test_even_pixel_noise_differs_little_in_the_mean() -> None:
    assert difference(saved(noise(512, 512), "JPEG", quality=90), SPEC).mean() <= 4


@pytest.mark.parametrize(
    ("width", "decoded"), [(255, 255), (256, 128), (511, 256), (512, 128), (1023, 256), (1024, 128)]
)
def test_the_decoded_picture_is_never_below_twice_the_needed_size(width: int, decoded: int) -> None:
    image = for_the_model(saved(noise(width, width), "JPEG")).image
    assert image.size == (decoded, decoded)
    assert decoded >= DRAFT_MARGIN * 64


@pytest.mark.parametrize("size", [(255, 255), (255, 600), (129, 128), (64, 64), (40, 70)])
def test_below_four_times_the_input_equals_torchvisions_bit_for_bit(size: tuple[int, int]) -> None:
    data = saved(noise(*size), "JPEG")
    pixels, _ = preprocess(for_the_model(data), SPEC, "crop")
    expected = tv.center_crop(tv.resize(read(data).image, [64]), [56, 56])
    assert np.array_equal(pixels, np.asarray(expected))


@pytest.mark.parametrize("name", ["PNG", "WEBP", "GIF", "BMP"])
def test_other_formats_are_always_exact(name: str) -> None:
    assert for_the_model(saved(noise(600, 600), name)).image.size == (600, 600)


def test_upload_size_and_crop_do_not_tell_of_the_draft() -> None:
    data = saved(photo(1001, 777), "JPEG")
    drafted, full = for_the_model(data), read(data)
    assert drafted.image.size == (251, 195)
    assert (drafted.width, drafted.height) == (1001, 777)
    assert preprocess(drafted, SPEC, "crop")[1] == preprocess(full, SPEC, "crop")[1]


@pytest.mark.parametrize("orientation", [6, 8])
def test_the_draft_of_a_picture_on_its_side_is_measured_upright(orientation: int) -> None:
    """Needed are 300x40 of the upright picture, whose sides are 2400x320."""
    data = saved(noise(320, 2400), "JPEG", exif=exif(orientation))
    decoded = decode(data, max_pixels=10**6, needed=lambda width, height: (width // 8, height // 8))
    assert (decoded.width, decoded.height) == (2400, 320)
    assert decoded.image.size == (600, 80)


def test_grey_and_cmyk_jpegs_are_drafted_too() -> None:
    for mode in ("L", "CMYK"):
        image: Image.Image = photo(800, 800).convert(mode)
        drafted = for_the_model(saved(image, "JPEG")).image
        assert (drafted.mode, drafted.size) == ("RGB", (200, 200))
        full = read(saved(image, "JPEG")).image.resize((64, 64), Image.Resampling.BILINEAR)
        small = drafted.resize((64, 64), Image.Resampling.BILINEAR)
        assert np.abs(levels(full) - levels(small)).mean() < 1
