"""Regions, hot spots, counterfactuals and curves, over HTTP."""

import base64
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from app.api.schemas import ExplainResponse
from app.imaging.hiding import STEPS
from tests.api.client import PHOTO, PREDICT, Api, in_base64, make_api

# The picture is 60x40, red on the left of 37, green on the right; the model sees 10 to 50.
RED = "0,0,37,40"


def mask(x0: int, y0: int, x1: int, y1: int) -> bytes:
    image = Image.new("L", (60, 40))
    image.paste(255, (x0, y0, x1, y1))
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def region_of(response: object) -> dict[str, float]:
    (explanation,) = response.json()["explanations"]  # type: ignore[attr-defined]
    found: dict[str, float] = explanation["region"]
    return found


def test_evidence_for_red_lies_in_the_red_part(api: Api) -> None:
    response = api.raw(region=RED, classes="red")
    found = region_of(response)
    assert set(found) == {"inside_share", "area_share", "lift", "peak_inside"}
    assert found["inside_share"] > 0.9
    assert found["area_share"] == pytest.approx(27 / 40, abs=0.02)
    assert found["lift"] == pytest.approx(found["inside_share"] / found["area_share"])
    assert found["peak_inside"] is True
    documented = ExplainResponse.model_validate(response.json())
    assert documented.explanations[0].region is not None
    assert region_of(api.raw(region=RED, classes="bright green"))["inside_share"] < 0.2


def test_a_mask_is_as_good_as_the_box_that_it_shows(api: Api) -> None:
    by_box = region_of(api.raw(region=RED))
    sent = {"image": PHOTO, "mask": mask(0, 0, 37, 40)}
    by_form = region_of(api.request("POST", "/api/v1/explain", files=sent))
    by_json = region_of(api.json(mask=in_base64(sent["mask"])))
    assert by_form == by_json == by_box


def test_without_positive_evidence_the_region_is_null(api: Api) -> None:
    (explanation,) = api.raw(region=RED, classes="blue").json()["explanations"]
    assert explanation["region"] is None
    (explanation,) = api.raw(classes="blue").json()["explanations"]
    assert "region" not in explanation


def test_a_counterfactual_tells_what_the_region_is_worth(api: Api) -> None:
    found = api.raw(region=RED, classes="red", counterfactual="true").json()
    told = found["explanations"][0]["region"]["counterfactual"]
    assert told["score"] == pytest.approx(found["predictions"][0]["score"], abs=1e-6)
    assert told["inside_blurred"] < told["score"]
    assert told["outside_blurred"] > told["inside_blurred"]


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_a_curve_tells_a_good_map_from_a_random_one(api: Api, kind: str) -> None:
    (explanation,) = api.raw(classes="red", check=kind).json()["explanations"]
    curve = explanation["checks"][kind]
    assert len(curve["scores"]) == STEPS + 1
    better = curve["random_area"] - curve["area"] if kind == "deletion" else (
        curve["area"] - curve["random_area"]
    )  # fmt: skip
    assert better > 0
    assert curve == api.raw(classes="red", check=kind).json()["explanations"][0]["checks"][kind]


def test_both_curves_can_be_had_of_several_maps(api: Api) -> None:
    answer = api.raw(classes="top2", check="deletion,insertion").json()
    for explanation in answer["explanations"]:
        assert set(explanation["checks"]) == {"deletion", "insertion"}
    assert "check" in answer["timings_ms"]


def test_boxes_are_told_in_pixels_of_the_upload(api: Api) -> None:
    (explanation,) = api.raw(classes="red", output="boxes").json()["explanations"]
    (spot,) = explanation["boxes"]
    assert spot["peak"] == 1
    assert spot["box"][0] == pytest.approx(10, abs=1)
    assert spot["box"][2] == pytest.approx(37, abs=5)
    assert len(spot["contour"]) >= 4
    assert "heatmap" not in explanation


def test_on_a_shared_scale_a_hopeless_class_is_pale(api: Api) -> None:
    def opacity(scale: str, place: int) -> int:
        answer = api.raw(classes="red,bright green", scale=scale, alpha=1).json()
        heatmap = answer["explanations"][place]["heatmap"]["base64"]
        with Image.open(BytesIO(base64.b64decode(heatmap))) as picture:
            extrema = picture.convert("RGBA").getchannel("A").getextrema()
        return int(extrema[1])  # type: ignore[arg-type]

    assert opacity("map", 0) == opacity("map", 1) == 255
    strongest = max(opacity("shared", 0), opacity("shared", 1))
    weakest = min(opacity("shared", 0), opacity("shared", 1))
    assert strongest == 255
    assert weakest < 255


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"counterfactual": "true"}, "counterfactual"),
        ({"region": "100,0,200,40"}, "region"),
        ({"scale": "shared", "normalize": "pytorch-grad-cam"}, "scale"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    api: Api, options: dict[str, Any], field: str
) -> None:
    response = api.raw(**options)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_a_region_twice_is_refused(api: Api) -> None:
    sent = {"image": PHOTO, "mask": mask(0, 0, 9, 9)}
    response = api.request("POST", "/api/v1/explain", files=sent, params={"region": RED})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "region")


def test_predict_knows_no_mask(api: Api) -> None:
    sent = {"image": PHOTO, "mask": mask(0, 0, 9, 9)}
    response = api.request("POST", PREDICT, files=sent)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "mask")


def test_a_mask_that_is_no_picture_is_refused(api: Api) -> None:
    assert api.json(mask=in_base64(b"nonsense")).status_code == 415


def test_more_questions_than_the_limit_are_refused() -> None:
    api = make_api(max_maps=40)
    response = api.raw(method="gradcam,layercam", classes="top3", check="deletion,insertion")
    assert response.status_code == 200
    limited = make_api(max_maps=40, max_budget=400)
    response = limited.raw(method="gradcam,layercam", classes="top3", check="deletion,insertion")
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "check")
