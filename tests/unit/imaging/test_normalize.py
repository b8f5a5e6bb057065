"""What is evidence lies between 0 and 1; what is none stays blank and says so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from app.imaging.normalize import (
    LOW_CONTRAST,
    NO_POSITIVE_EVIDENCE,
    Range,
    extent,
    grad_cam_scale,
    normalize,
)
from app.types import Map

FINITE = st.floats(-1e6, 1e6, width=32)
MAPS = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=FINITE)
COARSE = arrays(np.float32, (4, 5), elements=st.integers(-50, 50).map(float))


def a_map(*values: float) -> Map:
    return np.array([values], np.float32)


def test_the_strongest_evidence_is_one_and_what_speaks_against_is_nothing() -> None:
    evidence, flags = normalize(a_map(-3, 0, 1, 4), relu=True)
    assert evidence.tolist() == [[0, 0, 0.25, 1]]
    assert evidence.dtype == np.float32
    assert flags == ()


def test_the_weakest_evidence_is_zero_where_all_is_positive() -> None:
    assert normalize(a_map(1, 2, 3), relu=True)[0].tolist() == [[0, 0.5, 1]]


def test_on_a_common_scale_a_weak_map_looks_weak() -> None:
    strong, weak = a_map(-1, 2, 10), a_map(-5, 0, 1)
    common = extent([strong, weak], relu=True)
    assert common == Range(0, 10)
    assert normalize(weak, relu=True, within=common)[0].tolist() == [[0, 0, pytest.approx(0.1)]]
    assert normalize(strong, relu=True, within=common)[0].tolist() == [[0, pytest.approx(0.2), 1]]


def test_on_a_common_scale_a_map_without_evidence_stays_blank_and_flagged() -> None:
    evidence, flags = normalize(a_map(-1, -2), relu=True, within=Range(0, 10))
    assert not evidence.any()
    assert flags == (NO_POSITIVE_EVIDENCE,)


@pytest.mark.parametrize(("low", "flags"), [(8.9, ()), (9.1, (LOW_CONTRAST,)), (0, ())])
def test_a_map_of_little_relief_is_stretched_and_says_so(low: float, flags: tuple[str]) -> None:
    evidence, found = normalize(a_map(low, 10), relu=True)
    assert evidence.tolist() == [[0, 1]]
    assert found == flags


def test_the_scale_of_pytorch_grad_cam_has_its_constant() -> None:
    assert grad_cam_scale(a_map(0, 1e-7, 3e-7)).tolist() == [
        [0, pytest.approx(0.25), pytest.approx(0.75)]
    ]


def test_without_relu_negative_values_keep_their_order() -> None:
    assert normalize(a_map(-3, -1, 1), relu=False)[0].tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        (-3, -1, -2),
        (0, 0, 0),
        (-1, 0, -2),
        (-2, -2),
        (5, 5, 5),
        (7,),
        (1e-30, 1e-30),
        (1, 1 + 1e-7),
    ],
)
def test_a_map_without_evidence_or_without_relief_is_blank_and_flagged(
    values: tuple[float, ...], relu: bool
) -> None:
    evidence, flags = normalize(a_map(*values), relu=relu)
    assert not evidence.any()
    assert evidence.shape == (1, len(values))
    assert evidence.dtype == np.float32
    assert flags == (NO_POSITIVE_EVIDENCE,)


@pytest.mark.parametrize("values", [(-3e38, 3e38), (0, 1e-40), (0, 3.4e38)])
def test_extreme_values_neither_overflow_nor_vanish(values: tuple[float, ...]) -> None:
    assert normalize(a_map(*values), relu=False)[0].tolist() == [[0, 1]]


def test_the_raw_map_is_left_alone() -> None:
    raw = a_map(-1, 2)
    normalize(raw, relu=True)
    assert raw.tolist() == [[-1, 2]]


@given(MAPS, st.booleans())
def test_evidence_fills_zero_to_one_unless_there_is_none(raw: Map, relu: bool) -> None:
    evidence, flags = normalize(raw, relu=relu)
    assert evidence.shape == raw.shape
    blank = NO_POSITIVE_EVIDENCE in flags
    assert (evidence.min(), evidence.max()) == ((0, 0) if blank else (0, 1))


@given(COARSE, st.floats(0.0009765625, 1024, width=32), st.booleans())
def test_the_units_of_a_method_do_not_matter(raw: Map, scale: float, relu: bool) -> None:
    plain, plain_flags = normalize(raw, relu=relu)
    scaled, scaled_flags = normalize(raw * np.float32(scale), relu=relu)
    assert plain_flags == scaled_flags
    np.testing.assert_allclose(plain, scaled, atol=1e-5)
