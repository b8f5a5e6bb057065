"""A map lands where the evidence lies: on the right pixels of the upright upload."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.imaging.decode import decode
from app.imaging.geometry import _kept_weights, crop_offset, fit, lay, resized, seen, shrink
from app.imaging.preprocess import preprocess
from app.types import Box, Map, Preprocess, View
from tests.unit.imaging.pictures import exif, read, saved

# Landscape, portrait, odd sides, square; and specifications that crop, that see all, that pad.
UPLOADS = [(600, 400), (400, 600), (401, 301), (333, 333)]
CROPPED = Preprocess(resize=232, crop=(224, 224), mean=(0, 0, 0), std=(1, 1, 1))
SQUASHED = Preprocess(resize=(96, 128), crop=(96, 128), mean=(0, 0, 0), std=(1, 1, 1))
UNEVEN = Preprocess(resize=(100, 150), crop=(81, 97), mean=(0, 0, 0), std=(1, 1, 1))
PADDED = Preprocess(resize=90, crop=(160, 175), mean=(0, 0, 0), std=(1, 1, 1))
SPECS = [CROPPED, SQUASHED, UNEVEN, PADDED]


def scaled(width: int, height: int, spec: Preprocess, view: View) -> tuple[float, float]:
    """Upload pixels per input pixel, across and down."""
    box = seen(width, height, spec, view)
    return (box.x1 - box.x0) / spec.crop[1], (box.y1 - box.y0) / spec.crop[0]


def test_the_box_of_a_landscape_picture_is_its_middle() -> None:
    square = Preprocess(resize=200, crop=(200, 200), mean=(0, 0, 0), std=(1, 1, 1))
    assert seen(600, 400, square, "crop") == Box(100, 0, 500, 400)
    assert seen(400, 600, square, "crop") == Box(0, 100, 400, 500)
    assert seen(600, 400, square, "full") == Box(0, 0, 600, 400)


def test_the_box_of_a_padded_crop_reaches_beyond_the_picture() -> None:
    assert resized(100, 50, PADDED) == (180, 90)
    assert crop_offset((180, 90), PADDED) == (2, -35)
    box = seen(100, 50, PADDED, "crop")
    assert box.y0 < 0
    assert box.y1 > 50


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (5, 9), (14, 3)])
@pytest.mark.parametrize("out", [(64, 48), (33, 57), (7, 7), (3, 2), (1, 1)])
def test_on_a_whole_picture_it_is_bilinear_interpolation_as_torch_does_it(
    shape: tuple[int, int], out: tuple[int, int]
) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    laid = lay(values, Box(0, 0, 300, 200), (300, 200), out)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=out[::-1], mode="bilinear", align_corners=False
    )
    assert laid.dtype == np.float32
    np.testing.assert_allclose(laid, expected[0, 0].numpy(), atol=2e-6)


def peak_of(cell: tuple[int, int], cells: int, box: Box, upload: tuple[int, int]) -> Map:
    values = np.zeros((cells, cells), np.float32)
    values[cell] = 1
    return lay(values, box, upload, upload)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("upload", UPLOADS)
def test_a_peak_lands_on_the_pixel_in_the_middle_of_its_cell(
    upload: tuple[int, int], spec: Preprocess
) -> None:
    box = seen(*upload, spec, "crop")
    across, down = (box.x1 - box.x0) / 7, (box.y1 - box.y0) / 7
    checked = 0
    for row in range(7):
        for column in range(7):
            x, y = box.x0 + (column + 0.5) * across, box.y0 + (row + 0.5) * down
            if not (2 < x < upload[0] - 2 and 2 < y < upload[1] - 2):
                continue  # in the padding
            laid = peak_of((row, column), 7, box, upload)
            at_y, at_x = np.unravel_index(laid.argmax(), laid.shape)
            # An outer cell is level from its middle outwards.
            assert abs(at_x + 0.5 - x) <= (across / 2 + 1 if column in {0, 6} else 1)
            assert abs(at_y + 0.5 - y) <= (down / 2 + 1 if row in {0, 6} else 1)
            assert laid[int(y), int(x)] > 0.95
            checked += 1
    assert checked >= 9


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("upload", UPLOADS)
def test_the_map_covers_the_box_and_nothing_else(upload: tuple[int, int], spec: Preprocess) -> None:
    box = seen(*upload, spec, "crop")
    covered = lay(np.ones((7, 7), np.float32), box, upload, upload)
    x, y = np.arange(upload[0]) + 0.5, np.arange(upload[1]) + 0.5
    inside = ((y >= box.y0) & (y < box.y1))[:, None] & ((x >= box.x0) & (x < box.x1))
    assert np.array_equal(covered > 0, inside)
    np.testing.assert_allclose(covered[inside], 1, atol=1e-6)


def test_a_smaller_picture_shows_the_same_place() -> None:
    upload = (601, 403)
    box = seen(*upload, CROPPED, "crop")
    for out in (fit(*upload, 640), fit(*upload, 150), fit(*upload, 37)):
        values = np.zeros((7, 7), np.float32)
        values[2, 5] = 1
        laid = lay(values, box, upload, out)
        y, x = np.unravel_index(laid.argmax(), laid.shape)
        across, down = upload[0] / out[0], upload[1] / out[1]
        assert abs((x + 0.5) * across - (box.x0 + 5.5 / 7 * (box.x1 - box.x0))) <= across
        assert abs((y + 0.5) * down - (box.y0 + 2.5 / 7 * (box.y1 - box.y0))) <= down


def test_a_map_that_is_small_enough_stays_as_it_is() -> None:
    values = np.random.default_rng(0).random((56, 7), dtype=np.float32)
    assert shrink(values, 56) is values


@pytest.mark.parametrize(
    ("shape", "out"),
    [((112, 112), (56, 56)), ((57, 30), (56, 29)), ((100, 224), (25, 56)), ((1, 80), (1, 56))],
)
def test_a_fine_map_is_averaged_area_by_area(shape: tuple[int, int], out: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    small = shrink(values, 56)
    assert small.shape == out
    assert small.dtype == np.float32
    assert small.mean() == pytest.approx(values.mean(), abs=1e-6)
    resized_by_pillow = Image.fromarray(values).resize(out[::-1], Image.Resampling.BOX)
    if not any(full % part for full, part in zip(shape, out, strict=True)):
        np.testing.assert_allclose(small, np.asarray(resized_by_pillow), atol=1e-6)


def test_fit_keeps_the_shape() -> None:
    assert fit(600, 400, 300) == (300, 200)
    assert fit(401, 803, 640) == (320, 640)


@given(st.integers(1, 32_768), st.integers(1, 32_768), st.integers(1, 8192))
def test_fit_never_enlarges_and_never_vanishes(width: int, height: int, longest: int) -> None:
    across, down = fit(width, height, longest)
    assert 1 <= across <= width
    assert 1 <= down <= height
    assert max(across, down) == min(max(width, height), longest)


def marked(width: int, height: int, x: int, y: int, radius: int) -> Image.Image:
    picture = Image.new("RGB", (width, height), (0, 0, 80))
    picture.paste((255, 0, 0), (x - radius, y - radius, x + radius, y + radius))
    return picture


def centre_of_red(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> tuple[float, float]:
    red = pixels[..., 0].astype(np.float64)
    rows, columns = np.mgrid[: red.shape[0], : red.shape[1]] + 0.5
    return float((columns * red).sum() / red.sum()), float((rows * red).sum() / red.sum())


@given(
    upload=st.tuples(st.integers(90, 400), st.integers(90, 400)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    spec=st.sampled_from(SPECS),
    view=st.sampled_from(["crop", "full"]),
)
@settings(deadline=None, max_examples=150)
def test_what_the_model_sees_lies_where_the_box_says(
    upload: tuple[int, int], place: tuple[float, float], spec: Preprocess, view: View
) -> None:
    width, height = upload
    box, (across, down) = seen(width, height, spec, view), scaled(width, height, spec, view)
    # The marker lies wholly inside of what can be seen, with room for the resize to smear it.
    edge = 8 + 3 * max(across, down)
    left, right = max(box.x0, 0) + edge, min(box.x1, width) - edge
    top, bottom = max(box.y0, 0) + edge, min(box.y1, height) - edge
    x = round(left + place[0] * (right - left))
    y = round(top + place[1] * (bottom - top))
    decoded = read(saved(marked(width, height, x, y, 6), "PNG"))
    pixels, told = preprocess(decoded, spec, view)
    found_x, found_y = centre_of_red(pixels)
    assert told == box
    assert abs(box.x0 + found_x * across - x) <= 1.5 * max(1, across)
    assert abs(box.y0 + found_y * down - y) <= 1.5 * max(1, down)


def test_a_map_is_laid_the_same_whether_its_weights_are_kept_or_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(0).random((7, 7), np.float32)
    boxes = [Box(100, 0, 500, 400), Box(0, 0, 600, 400), Box(100, 0, 500, 400)]
    kept = [lay(values, box, (600, 400), (300, 200)) for box in boxes]
    monkeypatch.setattr("app.imaging.geometry._FEW", 0)
    made = [lay(values, box, (600, 400), (300, 200)) for box in boxes]
    np.testing.assert_array_equal(kept, made)
    assert not np.array_equal(kept[0], kept[1])


def test_the_large_weights_of_fine_maps_are_not_kept() -> None:
    _kept_weights.cache_clear()
    lay(np.ones((224, 224), np.float32), Box(0, 0, 600, 400), (600, 400), (600, 400))
    assert _kept_weights.cache_info().currsize == 0


def test_uploads_of_one_shape_share_what_lays_their_maps() -> None:
    _kept_weights.cache_clear()
    values = np.ones((7, 7), np.float32)
    for width in (640, 1024, 1600, 2592, 4032, 4608):
        upload = (width, width * 3 // 4)
        lay(values, seen(*upload, SPECS[0], "crop"), upload, fit(*upload, 640))
    assert _kept_weights.cache_info().misses == 2  # across and down


@pytest.mark.parametrize("start", [0.0, 3.0, 5.0])
def test_a_crop_narrower_than_a_pixel_is_one_pixel(start: float) -> None:
    box = Box(start, 0, start + 2, 8)
    laid = lay(np.ones((1, 1), np.float32), box, (8, 8), (1, 1))
    assert laid.tolist() == [[1]]
    laid = lay(np.ones((1, 1), np.float32), box, (8, 8), (2, 2))
    assert laid.any(axis=0).sum() == 1
    assert laid[:, laid.any(axis=0)].min() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_map_of_a_turned_upload_lies_on_the_upright_picture(name: str, orientation: int) -> None:
    """The marker, seen by the model as a 7x7 map, is found again where the viewer sees it."""
    data = saved(marked(700, 500, 300, 190, 25), name, exif=exif(orientation))
    decoded = decode(data, max_pixels=10**6, needed=lambda width, height: (48, 48))
    small = Preprocess(resize=56, crop=(56, 56), mean=(0, 0, 0), std=(1, 1, 1))
    pixels, box = preprocess(decoded, small, "crop")
    values = pixels[..., 0].astype(np.float32)
    upload = (decoded.width, decoded.height)
    laid = lay(values * (values > 128), box, upload, upload)
    upright = np.asarray(read(data).image)
    expected = centre_of_red(np.where(upright > 128, upright, 0).astype(np.uint8))
    found = centre_of_red(laid.astype(np.uint8)[..., None])
    assert np.abs(np.subtract(found, expected)).max() <= 1.5 * max(upload) / 56
