"""Pictures with parts of them taken away."""

import numpy as np
import pytest

from app.imaging.hiding import STEPS, blend, blur, curve, frames, ranking

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (12, 20, 3), np.uint8)
OTHER = RNG.integers(0, 256, (12, 20, 3), np.uint8)


def test_a_blend_is_one_picture_or_the_other_or_between() -> None:
    share = np.zeros((12, 20), np.float32)
    share[:, 10:] = 1
    share[:, 5] = 0.5
    mixed = blend(PICTURE, OTHER, share)
    np.testing.assert_array_equal(mixed[:, :5], PICTURE[:, :5])
    np.testing.assert_array_equal(mixed[:, 10:], OTHER[:, 10:])
    middle = (PICTURE[:, 5].astype(float) + OTHER[:, 5]) / 2
    assert np.abs(mixed[:, 5] - middle).max() <= 0.5


def test_a_blurred_picture_has_its_mean_and_little_else() -> None:
    soft = blur(PICTURE.repeat(10, axis=0).repeat(10, axis=1))
    assert soft.std() < PICTURE.std() / 3
    assert soft.mean() == pytest.approx(PICTURE.mean(), abs=6)


def test_the_hottest_pixels_go_first_and_all_at_last() -> None:
    raw = np.zeros((3, 5), np.float32)
    raw[2, 4] = 1
    steps = frames(PICTURE, OTHER, ranking(raw, 12, 20))
    assert len(steps) == STEPS + 1
    np.testing.assert_array_equal(steps[0], PICTURE)
    np.testing.assert_array_equal(steps[-1], OTHER)
    changed = (steps[1] != PICTURE).any(axis=2)
    assert changed.sum() == pytest.approx(12 * 20 / STEPS, abs=2)
    rows, columns = changed.nonzero()
    assert rows.min() >= 8
    assert columns.min() >= 15
    assert (steps[0] == PICTURE).all(), "nobody else's picture is written to"


def test_the_area_under_a_curve_is_that_of_its_trapezoids() -> None:
    found = curve([1.0, 0.5, 0.0], [1.0, 1.0, 1.0])
    assert (found.scores, found.area, found.random_area) == ((1.0, 0.5, 0.0), 0.5, 1.0)
