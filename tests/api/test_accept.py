"""``Accept`` decides between the JSON and the overlay itself."""

from io import BytesIO
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

from tests.api.client import PREDICT, Api, picture

BROWSER_IMAGE = "image/avif,image/webp,image/apng,image/*,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("image/png", "image/png"),
        ("image/webp", "image/webp"),
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/png"),
        (BROWSER_IMAGE, "image/png"),
        ("image/gif, image/webp;q=0.2", "image/webp"),
        ("application/json;q=0.5, image/jpeg;q=0.9", "image/jpeg"),
        ("application/json;q=0, */*", "image/png"),
        ("image/jpeg;q=0, image/*", "image/png"),
    ],
)
def test_the_client_gets_the_type_that_it_would_rather_have(
    api: Api, accept: str, media_type: str
) -> None:
    response = api.raw(headers={"Accept": accept})
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == media_type
    assert response.headers["Vary"].startswith("Accept")


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "*/*;q=0"])
def test_another_type_is_406_before_any_work(api: Api, accept: str) -> None:
    response = api.raw(headers={"Accept": accept})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert api.engine.jobs == []


def test_predict_has_no_picture(api: Api) -> None:
    assert api.raw(PREDICT, headers={"Accept": "image/png"}).status_code == 406


def test_several_accept_headers_count_together(api: Api) -> None:
    headers = [("Accept", "text/html"), ("Accept", "image/webp")]
    response = api.request("POST", "/api/v1/explain", content=picture(), headers=headers)
    assert response.headers["Content-Type"] == "image/webp"


def test_the_overlay_comes_with_the_best_class_in_its_headers(api: Api) -> None:
    headers = {"Accept": "image/jpeg"}
    response = api.raw(headers=headers, classes="blue", top_k=1, size=30)
    expected = api.raw().json()["predictions"][0]
    assert Image.open(BytesIO(response.content)).size == (30, 20)
    assert response.headers["X-Top-Index"] == str(expected["index"])
    assert float(response.headers["X-Top-Score"]) == pytest.approx(expected["score"], abs=1e-6)
    assert response.headers["X-Top-Label"] == expected["label"]
    assert "render;dur=" in response.headers["Server-Timing"]


def test_the_label_in_a_header_is_percent_encoded(api: Api) -> None:
    out = BytesIO()
    Image.new("RGB", (40, 40), (0, 255, 0)).save(out, "PNG")
    label = api.raw(photo=out.getvalue(), headers={"Accept": "image/png"}).headers["X-Top-Label"]
    assert label == "bright%20green"
    assert unquote(label) == "bright green"


def test_accept_decides_over_output_and_format(api: Api) -> None:
    asked: dict[str, Any] = {"output": "raw", "format": "png"}
    assert api.raw(headers={"Accept": "image/webp"}, **asked).headers["Content-Type"] == (
        "image/webp"
    )
    jpeg = api.raw(headers={"Accept": "image/jpeg"}, format="jpeg")
    assert (jpeg.status_code, jpeg.headers["Content-Type"]) == (200, "image/jpeg")


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("classes", {"classes": "top2"}),
        ("classes", {"classes": "0,1"}),
        ("method", {"method": "gradcam,layercam"}),
        ("check", {"check": "deletion"}),
        ("counterfactual", {"counterfactual": "true", "region": "0,0,9,9"}),
    ],
)
def test_what_does_not_fit_one_picture_is_refused(
    api: Api, field: str, asked: dict[str, Any]
) -> None:
    response = api.raw(headers={"Accept": "image/png"}, **asked)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == field
    assert api.engine.jobs == []
