"""Shares of evidence in boxes and masks, where they can be worked out by hand."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from app.errors import CamserveError, InvalidOption
from app.imaging.region import at_input, box_region, mask_region, measure
from app.types import Box, Map

UPLOAD = (600, 400)
WHOLE = Box(0, 0, 600, 400)
CROP = Box(100, 0, 500, 400)


def flat() -> Map:
    return np.ones((7, 7), np.float32)


def picture(mask: Image.Image) -> bytes:
    out = BytesIO()
    mask.save(out, "PNG")
    return out.getvalue()


def test_flat_evidence_lies_inside_as_the_area_does() -> None:
    report = measure(flat(), WHOLE, UPLOAD, box_region(Box(0, 0, 150, 400), UPLOAD))
    assert report is not None
    assert report.inside_share == pytest.approx(0.25, abs=1e-3)
    assert report.area_share == pytest.approx(0.25, abs=1e-3)
    assert report.lift == pytest.approx(1, abs=1e-3)


def test_what_the_model_did_not_see_counts_for_nothing() -> None:
    report = measure(flat(), CROP, UPLOAD, box_region(Box(0, 0, 200, 400), UPLOAD))
    assert report is not None
    assert report.area_share == pytest.approx(0.25, abs=5e-3)  # 100 of the 400 columns seen
    assert report.inside_share == pytest.approx(0.25, abs=5e-3)


def test_a_peak_inside_lifts_and_one_outside_does_not() -> None:
    raw = np.zeros((4, 6), np.float32)
    raw[1, 1] = 1  # its middle lies at 150, 150
    inside = measure(raw, WHOLE, UPLOAD, box_region(Box(50, 50, 250, 250), UPLOAD))
    outside = measure(raw, WHOLE, UPLOAD, box_region(Box(300, 0, 600, 400), UPLOAD))
    assert inside is not None
    assert outside is not None
    assert inside.peak_inside
    assert inside.inside_share == pytest.approx(1, abs=1e-2)
    assert inside.lift == pytest.approx(6, rel=0.02)
    assert not outside.peak_inside
    assert outside.inside_share == pytest.approx(0, abs=1e-6)


def test_evidence_against_counts_for_nothing_and_none_at_all_is_no_report() -> None:
    raw = np.array([[1, -100]], np.float32)
    report = measure(raw, WHOLE, UPLOAD, box_region(Box(0, 0, 300, 400), UPLOAD))
    assert report is not None
    assert report.inside_share > 0.85
    assert measure(-flat(), WHOLE, UPLOAD, box_region(WHOLE, UPLOAD)) is None


def test_a_box_smaller_than_a_cell_has_the_area_that_it_has() -> None:
    upload = (6000, 4000)
    cover = box_region(Box(100.5, 100.25, 101.5, 101.25), upload)
    assert cover.sum() / cover.size == pytest.approx(1 / (6000 * 4000), rel=1e-3)


@pytest.mark.parametrize("box", [Box(600, 0, 700, 10), Box(-5, 0, 0, 10), Box(0, 400, 9, 401)])
def test_a_box_outside_the_picture_is_refused(box: Box) -> None:
    with pytest.raises(InvalidOption, match="600x400"):
        box_region(box, UPLOAD)


def test_a_box_that_reaches_beyond_the_picture_is_what_of_it_lies_inside() -> None:
    np.testing.assert_array_equal(
        box_region(Box(-50, -50, 300, 900), UPLOAD), box_region(Box(0, 0, 300, 400), UPLOAD)
    )


@pytest.mark.parametrize("size", [(600, 400), (60, 40), (1200, 100)])
def test_a_mask_of_any_size_is_the_box_that_it_shows(size: tuple[int, int]) -> None:
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    cover = mask_region(picture(mask), UPLOAD, 10**6)
    np.testing.assert_allclose(cover, box_region(Box(0, 0, 300, 400), UPLOAD), atol=0.51)
    assert np.abs(cover - box_region(Box(0, 0, 300, 400), UPLOAD)).mean() < 0.005


@pytest.mark.parametrize(("grey", "inside"), [(127, 0), (128, 1)])
def test_over_127_is_inside(grey: int, inside: int) -> None:
    cover = mask_region(picture(Image.new("L", (3, 2), grey)), (3, 2), 100)
    assert set(cover.flat) == {inside}


def test_what_is_transparent_is_outside() -> None:
    canvas = Image.new("RGBA", (60, 40), (255, 255, 255, 0))  # as a browser's canvas makes it
    canvas.paste((255, 255, 255, 255), (0, 0, 30, 40))
    cover = mask_region(picture(canvas), UPLOAD, 10**6)
    np.testing.assert_allclose(cover, box_region(Box(0, 0, 300, 400), UPLOAD), atol=0.51)
    assert 0.45 < cover.mean() < 0.55


def test_a_mask_that_is_no_picture_is_refused() -> None:
    with pytest.raises(CamserveError):
        mask_region(b"nonsense", UPLOAD, 100)


def test_a_region_lies_in_the_models_input_where_the_crop_has_it() -> None:
    cover = box_region(Box(100, 0, 300, 400), UPLOAD)
    shown = at_input(cover, CROP, UPLOAD, (40, 40))
    assert shown[:, :20].min() == 1
    assert shown[:, 21:].max() == 0
    padded = at_input(box_region(WHOLE, UPLOAD), Box(-600, 0, 600, 400), UPLOAD, (20, 10))
    assert padded[:, :10].max() == 0
    assert padded[:, 10:].min() == 1
