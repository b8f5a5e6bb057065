"""What HTTP-level tests cannot see of bodies and options."""

import pytest

from app.api.body import parse_body, parse_options
from app.errors import BadRequest, InvalidOption
from app.options import ExplainOptions, PredictOptions


def test_a_raw_body_is_the_image_whatever_parameters_its_type_has() -> None:
    assert parse_body("Image/PNG; charset=binary", b"x").image == b"x"
    assert parse_body("", b"x").options == {}


def test_defaults_give_way_to_what_was_given() -> None:
    defaults = {"output": "overlay"}
    assert parse_options(ExplainOptions, [], {}, defaults).output == ("overlay",)
    assert parse_options(ExplainOptions, [("output", "raw")], {}, defaults).output == ("raw",)


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("5", 5),
        ("0.60", 0.6),
        ("1", 1.0),
        ("a, b", ["a", "b"]),
        ("1,top2", [1, "top2"]),
        ("x", "x "),
    ],
)
def test_one_value_reads_the_same_in_both_places(query: str, body: object) -> None:
    with pytest.raises(InvalidOption, match="there is no such option"):  # and not: differently
        parse_options(PredictOptions, [("free", query)], {"free": body})


@pytest.mark.parametrize(
    ("query", "body"), [("5", 6), ("a,b", ["b", "a"]), ("true", "false"), ("a,b", ["a,b"])]
)
def test_two_values_are_told_apart(query: str, body: object) -> None:
    with pytest.raises(InvalidOption, match="differently"):
        parse_options(PredictOptions, [("free", query)], {"free": body})


def test_the_detail_reads_as_a_sentence_for_each_option() -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_options(ExplainOptions, [("top_k", "x"), ("classes", "0,,,1")], {})
    assert caught.value.detail == (
        "classes: each must be an index, a label, or top1, top3, …; top_k: must be an integer."
    )


def test_too_many_options_are_refused_before_they_are_checked() -> None:
    with pytest.raises(BadRequest, match="the query"):
        parse_options(PredictOptions, [(f"x{i}", "") for i in range(65)], {})
