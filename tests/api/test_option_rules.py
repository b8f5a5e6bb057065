"""Options: one name and one meaning in query, form and JSON, and no guessing."""

from typing import Any

import httpx
import pytest

from tests.api.client import EXPLAIN, PHOTO, PREDICT, Api, form_body, in_base64, make_api


def refusal(response: httpx.Response, status: int = 422) -> dict[str, str]:
    """Field and detail of each thing that a problem names."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    return {error["field"]: error["detail"] for error in response.json()["errors"]}


def everywhere(api: Api, name: str, value: str) -> list[httpx.Response]:
    option: dict[str, Any] = {name: value}
    return [api.raw(**option), api.form(**option), api.json(**option)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "twins"),
        ("top_k", "1"),
        ("view", "full"),
        ("deadline_ms", "5000"),
        ("classes", "bright green, 2"),
        ("method", "gradcam,layercam"),
        ("layer", "shallow"),
        ("output", "raw,overlay"),
        ("format", "webp"),
        ("size", "20"),
        ("colormap", "viridis"),
        ("alpha", "0.3"),
        ("region", "0,0,30,30"),
        ("check", "insertion"),
        ("normalize", "pytorch-grad-cam"),
        ("seed", "3"),
    ],
)
def test_an_option_means_the_same_in_query_form_and_json(api: Api, name: str, value: str) -> None:
    plain, *answers = [r.json() for r in (api.raw(), *everywhere(api, name, value))]
    for answer in (plain, *answers):
        del answer["id"], answer["timings_ms"]
    assert answers[0] == answers[1] == answers[2]
    assert (answers[0] != plain) == (name != "deadline_ms"), "it has an effect"


@pytest.mark.parametrize(
    ("name", "text", "typed"),
    [
        ("classes", "2,bright green", [2, "bright green"]),
        ("classes", "2", 2),
        ("method", "gradcam,layercam", ["gradcam", "layercam"]),
        ("output", "raw,heatmap", ["raw", "heatmap"]),
        ("top_k", "2", 2),
        ("alpha", "0.50", 0.5),
        ("size", "20", 20),
        ("region", "0,0,30,30.5", [0, 0, 30, 30.5]),
    ],
)
def test_json_takes_typed_values_and_they_equal_the_text(
    api: Api, name: str, text: str, typed: Any
) -> None:
    in_query: dict[str, Any] = {name: text}
    as_text, as_json = api.raw(**in_query).json(), api.json(**{name: typed}).json()
    assert as_json["predictions"] == as_text["predictions"]
    assert as_json["explanations"] == as_text["explanations"]
    both = api.request(
        "POST", EXPLAIN, params={name: text}, json={"image": in_base64(), name: typed}
    )
    assert both.status_code == 200, "the same value in two places is fine"


def test_an_option_twice_in_the_query_is_refused(api: Api) -> None:
    assert "twice" in refusal(api.raw(top_k=[1, 1]))["top_k"]


def test_an_option_twice_in_the_form_is_refused(api: Api) -> None:
    body, headers = form_body(("top_k", b"1"), ("image", PHOTO), ("top_k", b"1"))
    assert "twice" in refusal(api.raw(photo=body, headers=headers))["top_k"]


def test_an_option_twice_in_json_is_refused(api: Api) -> None:
    body = f'{{"image": "{in_base64()}", "top_k": 1, "top_k": 1}}'.encode()
    response = api.raw(photo=body, headers={"Content-Type": "application/json"})
    assert "twice" in refusal(response)["top_k"]


def test_an_option_given_differently_in_two_places_is_refused(api: Api) -> None:
    response = api.request(
        "POST", EXPLAIN, params={"top_k": "1"}, files={"image": PHOTO}, data={"top_k": "2"}
    )
    assert "differently" in refusal(response)["top_k"]


def test_a_label_with_a_comma_differs_from_two_labels(api: Api) -> None:
    response = api.request(
        "POST", EXPLAIN, params={"classes": "a,b"}, json={"image": in_base64(), "classes": ["a,b"]}
    )
    assert "differently" in refusal(response)["classes"]


@pytest.mark.parametrize("name", ["topk", "Top_k", "", "__proto__", "image "])
def test_an_unknown_option_is_refused_by_name(api: Api, name: str) -> None:
    option: dict[str, Any] = {name: 1}
    for response in (api.raw(**option), api.json(**option)):
        assert refusal(response) == {name: "there is no such option"}


def test_predict_has_no_options_of_explain(api: Api) -> None:
    assert refusal(api.form(PREDICT, classes="top1")) == {"classes": "there is no such option"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", "0"),
        ("top_k", "-1"),
        ("top_k", "1001"),
        ("top_k", "9" * 5000),
        ("top_k", "2.0"),
        ("top_k", "1_0"),
        ("top_k", "٣"),
        ("top_k", ""),
        ("view", "half"),
        ("deadline_ms", "0"),
        ("deadline_ms", "9" * 400),
        ("deadline_ms", "soon"),
        ("classes", ""),
        ("classes", "0,,1"),
        ("classes", "0,0"),
        ("classes", "top1,top1"),
        ("method", "gradcam,gradcam"),
        ("output", "heatmap,heatmap"),
        ("output", "contours"),
        ("region", "1,2,3"),
        ("region", "1,2,3,4,5"),
        ("top_k", "1" * 5000),
        ("region", "5,5,5,9"),
        ("region", "a,b,c,d"),
        ("counterfactual", "yes"),
        ("counterfactual", "true"),
        ("threshold", "0"),
        ("scale", "global"),
        ("normalize", "zscore"),
        ("check", "deletion,deletion"),
        ("check", "blur"),
        ("seed", "-1"),
        ("budget", "0"),
        ("budget", "1001"),
        ("against", "1"),
        ("format", "gif"),
        ("size", "0"),
        ("size", "8193"),
        ("colormap", "__proto__"),
        ("alpha", "1.01"),
        ("alpha", "-0.1"),
        ("alpha", "nan"),
        ("alpha", "1e999"),
        ("alpha", "half"),
        ("classes", ",".join(map(str, range(1001)))),
    ],
)
def test_a_wrong_value_is_refused_by_name_wherever_it_stands(
    api: Api, name: str, value: str
) -> None:
    for response in everywhere(api, name, value):
        assert list(refusal(response)) == [name]
    assert api.engine.jobs == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", True),
        ("top_k", 2.0),
        ("top_k", [1]),
        ("top_k", {"value": 1}),
        ("top_k", None),
        ("deadline_ms", 10**400),
        ("model", 1),
        ("classes", True),
        ("classes", []),
        ("classes", [True]),
        ("classes", [1.0]),
        ("classes", [None]),
        ("classes", [[0]]),
        ("classes", {"0": 1}),
        ("method", [1]),
        ("output", "heatmap " * 2000),
        ("alpha", True),
        ("alpha", "0_1"),
    ],
)
def test_json_is_not_coerced_into_what_was_not_meant(api: Api, name: str, value: Any) -> None:
    assert list(refusal(api.json(**{name: value}))) == [name]


def test_every_wrong_option_is_named_at_once(api: Api) -> None:
    named = refusal(api.raw(top_k="x", alpha="9", colour="blue"))
    assert set(named) == {"top_k", "alpha", "colour"}
    assert named["alpha"] == "Input should be less than or equal to 1"


def test_a_jpeg_heatmap_is_refused_because_it_cannot_be_transparent(api: Api) -> None:
    assert "transparency" in refusal(api.form(format="jpeg"))["format"]
    assert "transparency" in refusal(api.form(format="jpeg", output="heatmap,overlay"))["format"]
    assert api.form(format="jpeg", output="raw").status_code == 200


def test_top_k_above_the_number_of_classes_gives_all_of_them(api: Api) -> None:
    answer = api.form(PREDICT, top_k=1000).json()
    scores = [p["score"] for p in answer["predictions"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("classes", "indices"),
    [
        ("top1", [0]),
        ("top3", [0, 1, 2]),
        ("top999", [0, 1, 2]),
        ("2", [2]),
        ("bright green", [1]),
        (" bright green ", [1]),
        ("2,red", [2, 0]),
        ([" 2"], None),
        (["bright green "], None),
        ("top0", None),
        ("Red", None),
    ],
)
def test_classes_are_top_n_an_index_or_an_exact_label(
    api: Api, classes: str | list[str], indices: list[int] | None
) -> None:
    response = api.json(classes=classes)
    if indices is None:
        assert "no label" in refusal(response)["classes"]
    else:
        assert [e["index"] for e in response.json()["explanations"]] == indices


def test_a_label_that_several_classes_share_is_refused_with_their_indices(api: Api) -> None:
    assert "0, 2" in refusal(api.form(model="twins", classes="crane"))["classes"]
    assert api.form(model="twins", classes="2").json()["explanations"][0]["label"] == "crane"


@pytest.mark.parametrize("index", ["3", "-1", "1000000000"])
def test_a_class_index_out_of_range_is_refused_with_the_range(api: Api, index: str) -> None:
    assert refusal(api.form(classes=index)) == {"classes": f"{index} is not from 0 to 2"}


def test_the_same_class_as_index_and_as_label_is_refused(api: Api) -> None:
    assert "twice" in refusal(api.form(classes="0,red"))["classes"]


def test_an_unsuitable_method_is_refused_naming_those_that_suit(api: Api) -> None:
    assert refusal(api.form(method="magic")) == {
        "method": "'magic' does not suit colours; these do: gradcam, layercam, lime"
    }
    assert list(refusal(api.form(method="layercam", model="twins"))) == ["method"]


def test_an_unknown_layer_is_refused_saying_where_to_look(api: Api) -> None:
    assert "/api/v1/models/colours" in refusal(api.form(layer="stem"))["layer"]


def test_more_maps_than_allowed_are_refused_before_any_work(api: Api) -> None:
    both = "gradcam,layercam"
    assert "6 maps" in refusal(api.form(classes="top3", method=both))["classes"]
    assert api.engine.jobs == []
    assert api.form(classes="top2", method=both).status_code == 200
    assert make_api(max_maps=6).form(classes="top999", method=both).status_code == 200


@pytest.mark.parametrize("path", [PREDICT, EXPLAIN])
@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("nonsense", 404, "unknown_model"),
        ("shelved", 404, "model_not_loaded"),
        ("late", 503, "model_loading"),
        ("broken", 503, "model_failed"),
    ],
)
def test_a_model_that_does_not_serve_is_refused_with_its_state(
    api: Api, path: str, model: str, status: int, code: str
) -> None:
    response = api.form(path, model=model)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert ("Retry-After" in response.headers) == (code == "model_loading")
    assert response.json()["retryable"] is (code == "model_loading")


def test_without_a_worker_everything_is_503_with_retry_after(api: Api) -> None:
    api.engine.known = []
    response = api.form()
    assert (response.status_code, response.json()["code"]) == (503, "no_worker")
    assert int(response.headers["Retry-After"]) > 0
