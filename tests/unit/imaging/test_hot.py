"""Hot parts as boxes and outlines."""

import numpy as np
import pytest

from app.imaging.hot import hot_spots
from app.types import Box, Map

UPLOAD = (800, 400)
WHOLE = Box(0, 0, 800, 400)


def two_blobs() -> Map:
    evidence = np.zeros((8, 16), np.float32)
    evidence[1:3, 1:4] = 0.7
    evidence[5:7, 10:14] = 1
    return evidence


def area(contour: tuple[tuple[float, float], ...]) -> float:
    x, y = np.array(contour).T
    return abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2


def test_each_connected_part_has_a_box_in_pixels_of_the_upload_the_hottest_first() -> None:
    first, second = hot_spots(two_blobs(), WHOLE, UPLOAD, 0.5)
    assert first.peak == 1
    assert second.peak == pytest.approx(0.7)
    # Cells are 50 pixels wide; halfway down to 0 lies about the cells' own edges.
    for side, expected in zip(("x0", "y0", "x1", "y1"), (500, 250, 700, 350), strict=True):
        assert getattr(first.box, side) == pytest.approx(expected, abs=7)
    for side, expected in zip(("x0", "y0", "x1", "y1"), (50, 50, 200, 150), strict=True):
        assert getattr(second.box, side) == pytest.approx(expected, abs=20)


def test_a_higher_threshold_has_fewer_and_smaller_parts() -> None:
    (only,) = hot_spots(two_blobs(), WHOLE, UPLOAD, 0.9)
    (wider, _) = hot_spots(two_blobs(), WHOLE, UPLOAD, 0.2)
    assert only.box.x0 > wider.box.x0
    assert only.box.x1 < wider.box.x1


def test_an_outline_encloses_its_part_and_is_closed() -> None:
    for spot in hot_spots(two_blobs(), WHOLE, UPLOAD, 0.5):
        assert spot.contour[0] == spot.contour[-1]
        box = (spot.box.x1 - spot.box.x0) * (spot.box.y1 - spot.box.y0)
        assert 0.75 * box < area(spot.contour) <= box * 1.02


def test_a_part_at_the_edge_has_an_outline_too() -> None:
    (spot,) = hot_spots(np.ones((3, 3), np.float32), WHOLE, UPLOAD, 0.5)
    assert spot.box == WHOLE
    assert area(spot.contour) == pytest.approx(800 * 400, rel=0.02)


def test_the_crop_is_undone() -> None:
    (spot,) = hot_spots(np.ones((3, 3), np.float32), Box(200, 0, 600, 400), UPLOAD, 0.5)
    assert spot.box.x0 == pytest.approx(200, abs=4)
    assert spot.box.x1 == pytest.approx(600, abs=4)


def test_a_blank_map_has_no_hot_part() -> None:
    assert hot_spots(np.zeros((7, 7), np.float32), WHOLE, UPLOAD, 0.5) == ()


def test_there_are_never_too_many() -> None:
    speckles = np.random.default_rng(0).random((64, 128), np.float32) ** 8
    assert len(hot_spots(speckles, WHOLE, UPLOAD, 0.3)) == 20
