"""The pictures that leave the house show the evidence, the upload, and nothing else."""

from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.imaging.colormap import colormap
from app.imaging.geometry import lay
from app.imaging.png import Levels
from app.imaging.render import Style, canvas, heatmap, overlay, quantize, scale
from app.types import Box, Map, Picture
from tests.unit.imaging.pictures import exif, levels, photo, read, saved

RAMP: Map = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (9, 1))  # [9, 256]
LEVELS = np.arange(256)


def opened(picture: Picture) -> Image.Image:
    image = Image.open(BytesIO(picture.data))
    image.load()
    assert picture.media_type == f"image/{str(image.format).lower()}"
    assert (picture.width, picture.height) == image.size
    return image


def quantized(evidence: Map) -> Levels:
    return quantize(scale(evidence))


def style(image_format: str, alpha: float = 0.6, colors: str = "inferno") -> Style:
    return Style(colors, alpha, image_format)


def test_a_png_heatmap_is_a_palette_with_transparency() -> None:
    image = opened(heatmap(quantized(RAMP), style("png")))
    assert (image.mode, image.size) == ("P", (256, 9))
    assert isinstance(image.info["transparency"], bytes)
    assert np.array_equal(levels(image), np.tile(LEVELS, (9, 1)))


@pytest.mark.parametrize("image_format", ["png", "webp"])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.6, 1.0])
def test_opacity_follows_the_value_and_is_scaled_by_alpha(image_format: str, alpha: float) -> None:
    opacity = levels(opened(heatmap(quantized(RAMP), style(image_format, alpha))).convert("RGBA"))[
        ..., 3
    ]
    assert (opacity[:, 0] == 0).all()
    assert np.abs(opacity - LEVELS * alpha).max() <= 0.5


@pytest.mark.parametrize("image_format", ["png", "webp"])
@pytest.mark.parametrize("colors", ["inferno", "viridis", "jet"])
def test_the_colours_are_the_colour_maps(image_format: str, colors: str) -> None:
    image = opened(heatmap(quantized(RAMP), style(image_format, 1.0, colors)))
    assert image.has_transparency_data
    shown = levels(image.convert("RGBA"))[0, 1:, :3]  # the first is transparent, of any colour
    assert np.array_equal(shown, colormap(colors)[1:])


def test_values_between_two_levels_are_rounded() -> None:
    values = np.array([[0.0, 0.4, 0.5, 0.6, 254.5, 255.0]]) / 255
    assert quantized(values.astype(np.float32)).tolist() == [[0, 0, 1, 1, 255, 255]]


def test_a_map_in_levels_can_be_laid_before_they_are_cut_off() -> None:
    evidence = np.random.default_rng(0).random((7, 7), np.float32)
    evidence.flat[:2] = 0, 1
    where = Box(100, 0, 500, 400), (600, 400), (600, 400)
    laid, expected = lay(scale(evidence), *where), lay(evidence, *where) * 255
    np.testing.assert_array_equal(quantize(laid)[:, :100], 0)
    assert np.abs(quantize(laid) - expected).max() < 0.501


def test_a_blank_map_is_a_transparent_picture() -> None:
    blank = np.zeros((5, 8), np.float32)
    image = opened(heatmap(quantized(blank), style("png"))).convert("RGBA")
    assert image.size == (8, 5)
    assert not levels(image)[..., 3].any()


def blended(evidence: Map, picture: Image.Image, alpha: float) -> NDArray[np.float64]:
    level = np.round(evidence * 255).astype(int)
    weight = (level / 255 * alpha)[..., None]
    mixed: NDArray[np.float64] = colormap("inferno")[level] * weight + levels(picture) * (
        1 - weight
    )
    return mixed


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 1.0])
def test_an_overlay_is_the_blend_of_both(alpha: float) -> None:
    picture = photo(256, 90)
    evidence = np.tile(RAMP, (10, 1))
    image = opened(overlay(quantized(evidence), np.asarray(picture), style("png", alpha)))
    assert image.mode == "RGB"
    assert np.abs(levels(image) - blended(evidence, picture, alpha)).max() <= 1.5


def test_the_picture_that_an_overlay_is_drawn_on_is_left_as_it_is() -> None:
    shown = np.array(photo(256, 90))
    before = shown.copy()
    overlay(np.full((90, 256), 255, np.uint8), shown, style("png"))
    assert np.array_equal(shown, before)


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_an_overlay_in_a_lossy_format_looks_the_same(image_format: str) -> None:
    picture = photo(256, 90).resize((64, 22)).resize((256, 90), Image.Resampling.BICUBIC)
    evidence = np.tile(RAMP, (10, 1))
    image = opened(overlay(quantized(evidence), np.asarray(picture), style(image_format)))
    assert image.mode == "RGB"
    assert np.abs(levels(image) - blended(evidence, picture, 0.6)).mean() <= 4


def test_outside_of_what_the_model_saw_the_picture_is_untouched() -> None:
    picture = photo(120, 80)
    evidence = lay(np.ones((7, 7), np.float32), Box(20, 0, 100, 80), (120, 80), (120, 80))
    shown = levels(opened(overlay(quantized(evidence), np.asarray(picture), style("png"))))
    assert np.array_equal(shown[:, :20], levels(picture)[:, :20])
    assert np.array_equal(shown[:, 100:], levels(picture)[:, 100:])
    assert (shown[:, 20:100] != levels(picture)[:, 20:100]).any(axis=2).mean() > 0.95


def test_a_picture_of_another_size_is_resized_to_be_drawn_on() -> None:
    picture = photo(240, 160)
    assert np.array_equal(canvas(picture, (240, 160)), levels(picture))
    expected = picture.resize((120, 80), Image.Resampling.BILINEAR)
    assert np.abs(canvas(picture, (120, 80)) - levels(expected)).max() <= 1


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("size", [(60, 40), (30, 20)])
def test_no_metadata_of_the_upload_leaves_the_house(
    name: str, image_format: str, size: tuple[int, int]
) -> None:
    secrets = {"exif": exif(1) + b"51.5N 0.1W", "icc_profile": b"secret profile" * 20,
               "comment": b"secret comment", "xmp": b"<secret/>"}  # fmt: skip
    data = saved(photo(60, 40), name, **secrets)
    evidence = np.full((size[1], size[0]), 0.5, np.float32)
    answer = overlay(quantized(evidence), canvas(read(data).image, size), style(image_format))
    clean = overlay(
        quantized(evidence),
        canvas(read(saved(photo(60, 40), name)).image, size),
        style(image_format),
    )
    assert answer.data == clean.data
    assert set(opened(answer).info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "loop",
                                        "background", "timestamp", "duration"}  # fmt: skip


def test_a_heatmap_has_no_metadata() -> None:
    assert set(opened(heatmap(quantized(RAMP), style("png"))).info) == {"transparency"}
