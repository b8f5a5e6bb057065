"""What an upload gets: the same answer in every form, in the shape that the documentation tells."""

import base64
import struct
import threading
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import app
from app.api.schemas import ExplainResponse, PredictResponse
from app.api.writing import answer_json
from app.types import Answer
from tests.api.client import EXPLAIN, PHOTO, PREDICT, Api, form_body, in_base64, make_api, picture

FORMS = ["form", "image/png", "image/jpeg", "application/octet-stream", "none", "json", "data URI"]


def send(api: Api, form: str, path: str, **options: Any) -> httpx.Response:
    """The same picture and options, in one of the forms."""
    if form == "form":
        return api.form(path, **options)
    if form == "json":
        return api.json(path, **options)
    if form == "data URI":
        return api.json(path, image=f"data:image/png;base64,{in_base64()}", **options)
    declared = {} if form == "none" else {"Content-Type": form}
    return api.raw(path, headers=declared, **options)


def lasting(response: httpx.Response) -> dict[str, Any]:
    """The part of an answer that a second request must repeat."""
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    del answer["id"], answer["timings_ms"]
    return answer


def pixels(encoded: dict[str, Any]) -> Image.Image:
    return Image.open(BytesIO(base64.b64decode(encoded["base64"])))


@pytest.mark.parametrize("form", FORMS)
def test_explain_gives_the_same_answer_in_every_form(api: Api, form: str) -> None:
    expected = lasting(send(api, "form", EXPLAIN, top_k="2", classes="top2"))
    assert len(expected["explanations"]) == 2
    assert lasting(send(api, form, EXPLAIN, top_k="2", classes="top2")) == expected


@pytest.mark.parametrize("form", FORMS)
def test_predict_gives_the_same_answer_in_every_form(api: Api, form: str) -> None:
    expected = lasting(send(api, "form", PREDICT, top_k="2"))
    assert [p["label"] for p in expected["predictions"]] == ["red", "bright green"]
    assert lasting(send(api, form, PREDICT, top_k="2")) == expected


def test_an_explanation_has_the_documented_shape_and_no_more(api: Api) -> None:
    answer = api.form().json()
    documented = ExplainResponse.model_validate(answer)
    assert documented.model_dump(mode="json", exclude_none=True) == answer
    assert set(answer) == {
        "id", "model", "image", "predictions", "explanations", "receipt", "timings_ms",
    }  # fmt: skip
    (explanation,) = answer["explanations"]
    assert set(explanation) == {"index", "label", "method", "layer", "grid", "heatmap", "flags"}
    assert set(explanation["grid"]) == {"shape", "values", "min", "max"}


def test_a_prediction_has_no_explanations(api: Api) -> None:
    answer = api.form(PREDICT).json()
    assert (
        PredictResponse.model_validate(answer).model_dump(mode="json", exclude_none=True) == answer
    )
    assert "explanations" not in answer
    assert api.engine.jobs[0].methods == ()


def test_the_grid_is_the_raw_map_signed_and_unrounded(api: Api) -> None:
    (explanation,) = api.form(output="raw").json()["explanations"]
    grid, raw = explanation["grid"], explanation["raw"]
    values = [value for row in grid["values"] for value in row]
    assert grid["shape"] == [4, 4]
    assert min(values) == grid["min"] < 0 < grid["max"] == max(values)
    packed = base64.b64decode(raw["base64"])
    assert list(struct.unpack("<16f", packed)) == values
    assert (raw["dtype"], raw["shape"]) == ("<f4", [4, 4])


def test_the_answer_tells_the_upload_and_the_part_that_the_model_saw(api: Api) -> None:
    image = api.form(photo=picture("JPEG", (90, 60))).json()["image"]
    assert (image["width"], image["height"], image["format"]) == (90, 60, "JPEG")
    assert image["orientation"] == 1
    assert image["crop"] == [15, 0, 75, 60]
    assert api.form(view="full").json()["image"]["crop"] == [0, 0, 60, 40]


def test_the_answer_says_what_made_it_and_how_long_it_took(api: Api) -> None:
    response = api.form()
    answer = response.json()
    assert answer["model"] == {"name": "colours", "version": "sha256:colours"}
    assert answer["id"] == response.headers["X-Request-ID"]
    assert answer["receipt"] == {
        "seed": 0, "normalize": "minmax", "precision": "fp32", "camserve": app.__version__,
        "torch": "0.0",
    }  # fmt: skip
    assert "seed" not in api.form(PREDICT).json()["receipt"]
    timings = answer["timings_ms"]
    assert list(timings) == ["decode", "queue", "forward", "render", "total"]
    assert timings["total"] >= timings["decode"] + timings["render"]
    assert response.headers["Server-Timing"].startswith("decode;dur=")
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/event-stream"])
def test_stage_times_are_counted(api: Api, accept: str) -> None:
    assert api.raw(headers={"Accept": accept}).status_code == 200
    counted = [event for line in api.events for event in line["events"]]
    assert ("stage_seconds", 0.001, {"stage": "forward"}) in counted


@pytest.mark.parametrize(
    ("output", "present"),
    [
        ("heatmap", {"heatmap"}),
        ("overlay", {"overlay"}),
        ("raw", {"raw"}),
        ("heatmap,overlay", {"heatmap", "overlay"}),
        ("raw, heatmap ,overlay", {"heatmap", "overlay", "raw"}),
    ],
)
def test_what_was_not_asked_for_is_absent(api: Api, output: str, present: set[str]) -> None:
    (explanation,) = api.form(output=output).json()["explanations"]
    assert {"heatmap", "overlay", "raw"} & set(explanation) == present
    assert "grid" in explanation


@pytest.mark.parametrize("image_format", ["png", "webp", "jpeg"])
def test_pictures_come_in_the_format_and_size_asked_for(api: Api, image_format: str) -> None:
    (explanation,) = api.form(output="overlay", format=image_format, size=30).json()["explanations"]
    overlay = explanation["overlay"]
    assert (overlay["media_type"], overlay["width"], overlay["height"]) == (
        f"image/{image_format}", 30, 20,
    )  # fmt: skip
    assert pixels(overlay).size == (30, 20)
    assert pixels(overlay).format == image_format.upper()


def test_the_heatmap_has_the_uploads_geometry_and_is_transparent_outside_the_crop(
    api: Api,
) -> None:
    heatmap = pixels(api.form().json()["explanations"][0]["heatmap"])
    assert heatmap.size == (60, 40)
    opacity = heatmap.convert("RGBA").getchannel("A")
    assert opacity.getpixel((0, 20)) == 0
    assert opacity.getpixel((15, 20)) != 0


def test_colormap_and_alpha_change_the_picture(api: Api) -> None:
    def drawn(**options: Any) -> str:
        return str(api.form(**options).json()["explanations"][0]["heatmap"]["base64"])

    assert len({drawn(), drawn(colormap="turbo"), drawn(alpha="0.2")}) == 3


def test_a_map_without_evidence_is_flagged() -> None:
    api = make_api()
    (explanation,) = api.form(classes="blue").json()["explanations"]
    assert explanation["flags"] == ["no_positive_evidence"]
    assert explanation["grid"]["max"] < 0


def test_explanations_come_method_by_method_then_class_by_class(api: Api) -> None:
    answer = api.form(method="layercam,gradcam", classes="top2").json()
    found = [(e["method"], e["index"]) for e in answer["explanations"]]
    assert found == [("layercam", 0), ("layercam", 1), ("gradcam", 0), ("gradcam", 1)]


def test_a_layer_is_passed_on_and_named(api: Api) -> None:
    (explanation,) = api.form(layer="shallow").json()["explanations"]
    assert (explanation["layer"], explanation["grid"]["shape"]) == ("shallow", [8, 8])


def test_the_models_own_layer_shares_a_batch_with_requests_that_name_none(api: Api) -> None:
    assert api.form(layer="deep").status_code == 200
    assert api.engine.jobs[0].layers == ()


def test_a_deadline_reaches_the_job_but_never_passes_the_servers(api: Api) -> None:
    api.raw(deadline_ms=1000)
    api.raw()
    api.raw(deadline_ms=3_600_000)
    short, plain, long = (job.deadline for job in api.engine.jobs)
    assert short < plain
    assert 0 <= long - plain < 50  # the server's own 60 s, not an hour


def test_a_fine_map_is_averaged_for_the_grid_and_says_so(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = api.raw().json()["explanations"]
    assert "native_shape" not in whole["grid"]
    monkeypatch.setattr("app.drawing._GRID_SIDE", 2)
    (coarse,) = api.raw(output="raw").json()["explanations"]
    assert (coarse["grid"]["shape"], coarse["grid"]["native_shape"]) == ([2, 2], [4, 4])
    expected = np.array(whole["grid"]["values"]).reshape(2, 2, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(coarse["grid"]["values"], expected, atol=1e-6)
    assert [coarse["grid"][end] for end in ("min", "max")] == [
        whole["grid"][end] for end in ("min", "max")
    ]
    assert coarse["raw"]["shape"] == [4, 4]


def test_a_large_answer_is_written_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    writers: list[str] = []

    def watched(answer: Answer, request_id: str, *, explained: bool) -> bytes:
        writers.append(threading.current_thread().name)
        return answer_json(answer, request_id, explained=explained)

    monkeypatch.setattr("app.api.native.answer_json", watched)
    monkeypatch.setattr("app.api.native._MOMENT_S", 40e-6)
    out = BytesIO()
    Image.effect_noise((300, 300), 90).convert("RGB").save(out, "PNG")
    api = make_api(max_body_bytes=10_000_000)
    api.form()
    (explanation,) = api.form(photo=out.getvalue(), output="overlay").json()["explanations"]
    assert len(base64.b64decode(explanation["overlay"]["base64"])) > 64 * 1024
    assert pixels(explanation["overlay"]).size == (300, 300)
    api.form(classes="top2")  # small maps, but two of them
    here, beside, too = writers
    decoders = {thread.name for thread in threading.enumerate() if "pictures" in thread.name}
    assert here == threading.current_thread().name
    assert not {beside, too} & {here, *decoders}  # a queue of pictures must not hold it up


def test_a_file_name_does_not_matter(api: Api) -> None:
    body, headers = form_body(("image", PHOTO))
    hostile = b'name="image"; filename="../../etc/passwd\x00.php"'
    named = api.raw(photo=body.replace(b'name="image"', hostile), headers=headers)
    assert lasting(named) == lasting(api.form())


def test_the_bytes_decide_and_not_the_declared_type(api: Api) -> None:
    photo = picture("JPEG")
    answer = api.raw(photo=photo, headers={"Content-Type": "image/webp"}).json()
    assert answer["image"]["format"] == "JPEG"
