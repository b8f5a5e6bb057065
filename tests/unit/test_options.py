from typing import Any

import pytest
from pydantic import ValidationError

from app.options import ExplainOptions, PredictOptions, class_name, number, split_commas, top, whole


def test_text_is_split_at_its_commas_and_a_list_is_left_alone() -> None:
    assert split_commas(" a , b,") == ["a", "b", ""]
    assert split_commas(["a, b"]) == ["a, b"]
    assert split_commas(("a",)) == ("a",)
    assert split_commas(7) == [7]


@pytest.mark.parametrize("value", [True, None, 1.5, {"a": 1}])
def test_what_is_no_list_is_said_to_be_none(value: object) -> None:
    with pytest.raises(ValueError, match="must be a list"):
        split_commas(value)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("7", 7), ("-7", -7), ("+7", 7), (7, 7), ("007", 7), ("7a", "7a"), ("--7", "--7"), ("٣", "٣")],
)
def test_an_integer_however_written_is_an_index(written: object, meant: object) -> None:
    assert class_name(written) == meant


@pytest.mark.parametrize("value", ["", True, None, 1.0, [1]])
def test_a_class_is_an_index_or_text(value: object) -> None:
    with pytest.raises(ValueError, match="index, a label"):
        class_name(value)


@pytest.mark.parametrize(("written", "meant"), [("12", 12), (" 12 ", 12), ("-1", -1), (3, 3)])
def test_an_integer_is_read_from_text_and_number(written: object, meant: int) -> None:
    assert whole(written) == meant


@pytest.mark.parametrize("value", [True, 2.0, "2.0", "1_0", "٣", "0x1", "", "1 0", None, []])
def test_nothing_else_is_taken_for_an_integer(value: object) -> None:
    with pytest.raises(ValueError, match="integer"):
        whole(value)


@pytest.mark.parametrize(
    ("written", "meant"), [("0.5", 0.5), (".5", 0.5), ("1", 1), ("5e-1", 0.5), (1, 1), (0.25, 0.25)]
)
def test_a_number_is_read_from_text_and_number(written: object, meant: float) -> None:
    assert number(written) == meant


@pytest.mark.parametrize("value", [True, "0_5", "nan", "inf", "", ".", "half", None])
def test_nothing_else_is_taken_for_a_number(value: object) -> None:
    with pytest.raises(ValueError, match="number"):
        number(value)


def test_top_n_is_told_from_labels_and_indices() -> None:
    assert [top(e) for e in ("top1", "top12", "top0", "top", "topaz", "xtop1", 3)] == [
        1, 12, None, None, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "several"),
    [
        ({}, False),
        ({"classes": "7"}, False),
        ({"classes": "topaz"}, False),
        ({"classes": "top2"}, True),
        ({"classes": "7,8"}, True),
        ({"method": "gradcam,layercam"}, True),
    ],
)
def test_asking_for_several_maps_shows(options: dict[str, Any], several: bool) -> None:
    assert ExplainOptions(**options).asks_for_several is several


def test_the_time_of_a_request_is_its_own_within_the_servers() -> None:
    assert PredictOptions().seconds(10) == 10
    assert PredictOptions(deadline_ms=1500).seconds(10) == 1.5
    assert PredictOptions(deadline_ms=60_000).seconds(10) == 10


def test_the_upload_itself_is_needed_for_an_overlay_alone() -> None:
    assert PredictOptions().picture_side == 0
    assert ExplainOptions().picture_side == 0
    assert ExplainOptions(output=("overlay",), size=99).picture_side == 99


def test_options_cannot_change_once_they_are_checked() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PredictOptions().top_k = 3  # type: ignore[misc]


def test_values_for_every_option_survive_a_second_check() -> None:
    options = ExplainOptions.model_validate({"classes": "top2,5", "output": "raw", "alpha": "1"})
    assert ExplainOptions.model_validate(options.model_dump()) == options
