"""What there is to ask for: models, methods, limits."""

from app.api.schemas import LimitsResponse, MethodsResponse, ModelsResponse
from app.types import ModelInfo
from tests.api.client import MAX_BODY, Api, make_api
from tests.fakes import COLOURS, FakeEngine


def test_models_are_listed_with_their_states_and_the_default(api: Api) -> None:
    listed = ModelsResponse.model_validate(api.get("/api/v1/models").json())
    assert listed.default == "colours"
    assert {model.name: model.state for model in listed.models} == {
        "broken": "failed", "colours": "ready", "late": "loading", "shelved": "unloaded",
        "twins": "ready",
    }  # fmt: skip


def test_one_model_tells_all_that_a_request_needs(api: Api) -> None:
    response = api.get("/api/v1/models/colours")
    assert ModelInfo.model_validate(response.json()) == COLOURS


def test_one_model_is_told_in_any_state(api: Api) -> None:
    assert api.get("/api/v1/models/broken").json()["error"] == "head(features(x)) is not model(x)"


def test_an_unknown_model_is_404_naming_those_there_are(api: Api) -> None:
    response = api.get("/api/v1/models/nonsense")
    assert (response.status_code, response.json()["code"]) == (404, "unknown_model")
    assert "broken, colours, late" in response.json()["detail"]


def test_without_a_worker_the_list_is_empty_and_one_model_is_503() -> None:
    api = make_api(engine=FakeEngine(known=[]))
    assert api.get("/api/v1/models").json()["models"] == []
    assert api.get("/api/v1/models/colours").status_code == 503


def test_methods_are_listed_with_their_cost(api: Api) -> None:
    listed = MethodsResponse.model_validate(api.get("/api/v1/methods").json())
    assert [(m.name, m.lane, m.needs) for m in listed.methods] == [
        ("gradcam", "fast", ("activations", "gradients")),
        ("layercam", "fast", ("activations", "gradients")),
        ("lime", "slow", ("activations", "gradients")),
    ]  # fmt: skip


def test_methods_say_which_models_they_suit(api: Api) -> None:
    listed = MethodsResponse.model_validate(api.get("/api/v1/methods").json())
    assert {m.name: m.models for m in listed.methods} == {
        "gradcam": ("colours", "twins"), "layercam": ("colours",), "lime": ("colours",),
    }  # fmt: skip


def test_limits_are_those_that_requests_meet(api: Api) -> None:
    limits = LimitsResponse.model_validate(api.get("/api/v1/limits").json())
    assert limits == LimitsResponse(
        max_body_bytes=MAX_BODY,
        max_pixels=100_000,
        max_maps=4,
        max_picture_pixels=1_000_000,
        max_budget=1000,
        deadline_ms=60_000,
        slow_deadline_ms=600_000,
        formats=["JPEG", "PNG", "WEBP", "GIF", "BMP"],
    )
