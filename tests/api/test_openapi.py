"""The OpenAPI document: whole, and true."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.options import ExplainOptions, PredictOptions
from tests.api.client import EXPLAIN, PREDICT, Api, make_api

DOCUMENT: dict[str, Any] = make_api().get("/openapi.json").json()
OPERATIONS = {
    (path, method): operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        node: Any = DOCUMENT
        for name in reference.removeprefix("#/").split("/"):
            assert name in node, reference
            node = node[name]


def test_every_operation_has_a_short_unique_name_and_a_summary() -> None:
    names = [operation["operationId"] for operation in OPERATIONS.values()]
    assert sorted(names) == sorted(set(names))
    assert set(names) == {
        "predict", "explain", "models", "model", "methods", "limits", "samples", "livez", "readyz",
        "metrics",
    }  # fmt: skip
    assert all(o["summary"] and o["description"] for o in OPERATIONS.values())


def test_every_error_is_documented_as_a_problem() -> None:
    for (path, _), operation in OPERATIONS.items():
        for status, response in operation["responses"].items():
            assert response["description"]
            if int(status) >= 400 and path != "/readyz":
                assert list(response["content"]) == ["application/problem+json"], (path, status)


@pytest.mark.parametrize("path", [PREDICT, EXPLAIN])
def test_the_work_routes_document_every_way_to_fail(path: str) -> None:
    responses = set(OPERATIONS[path, "post"]["responses"])
    assert responses == {
        "200", "304", "400", "401", "404", "406", "408", "413", "415", "422", "429", "431", "500",
        "503", "504",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "options"), [(PREDICT, PredictOptions), (EXPLAIN, ExplainOptions)]
)
def test_every_option_is_documented_in_each_place(path: str, options: type[PredictOptions]) -> None:
    operation, names = OPERATIONS[path, "post"], set(options.model_fields)
    assert {p["name"] for p in operation["parameters"]} == names
    assert all(p["description"] and p["in"] == "query" for p in operation["parameters"])
    bodies = operation["requestBody"]["content"]
    for form in ("multipart/form-data", "application/json"):
        schema = bodies[form]["schema"]
        mask = {"mask"} if options is ExplainOptions else set()
        assert set(schema["properties"]) == names | {"image"} | mask
        assert schema["required"] == ["image"]
    assert {"image/jpeg", "application/octet-stream"} < set(bodies)
    for form, body in bodies.items():
        assert body["examples"], form


def test_every_limit_is_in_the_words_of_json_schema() -> None:
    schemas = {p["name"]: p["schema"] for p in OPERATIONS[EXPLAIN, "post"]["parameters"]}
    assert (schemas["deadline_ms"]["minimum"], schemas["budget"]["minimum"]) == (1, 1)
    for name, schema in schemas.items():
        assert not {"ge", "gt", "le", "lt"} & schema.keys(), name
        if schema.get("type") == "array":
            assert "maxItems" in schema, name
            assert not {"minLength", "maxLength"} & schema.keys(), name


def test_keys_are_documented_where_they_are_asked_for() -> None:
    key = "a-key-of-the-tests-that-is-long-enough"
    document = make_api(keys=[key]).get("/openapi.json", **{"X-API-Key": key}).json()
    schemes = document["components"]["securitySchemes"]
    assert {scheme["type"] for scheme in schemes.values()} == {"http", "apiKey"}
    assert [next(iter(way)) for way in document["security"]] == list(schemes)
    assert "security" not in make_api().get("/openapi.json").json()


def test_optional_options_are_absent_and_not_null() -> None:
    for parameter in OPERATIONS[EXPLAIN, "post"]["parameters"]:
        assert {"type": "null"} not in parameter["schema"].get("anyOf", [])
    schemas = {p["name"]: p["schema"] for p in OPERATIONS[EXPLAIN, "post"]["parameters"]}
    assert schemas["model"] == {"type": "string", "title": "Model"}
    assert "default" not in schemas["layer"]


def test_lists_are_documented_with_commas() -> None:
    lists = {p["name"]: p for p in OPERATIONS[EXPLAIN, "post"]["parameters"] if "explode" in p}
    assert set(lists) == {
        "classes", "method", "output", "layer", "against", "region", "check",
    }  # fmt: skip
    assert not any(parameter["explode"] for parameter in lists.values())


def test_the_overlay_is_documented_beside_the_json() -> None:
    answer = OPERATIONS[EXPLAIN, "post"]["responses"]["200"]
    assert set(answer["content"]) == {
        "application/json", "image/png", "image/webp", "image/jpeg", "text/event-stream",
    }  # fmt: skip
    assert set(answer["headers"]) == {"X-Top-Index", "X-Top-Score", "X-Top-Label"}


@pytest.mark.parametrize("path", [PREDICT, EXPLAIN])
def test_the_json_examples_work_as_they_stand(api: Api, path: str) -> None:
    content = OPERATIONS[path, "post"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        response = api.request("POST", path, json=example["value"])
        assert response.status_code == 200, response.text
        assert len(response.json()["predictions"]) == 3


def test_defaults_are_those_of_a_request_without_options(api: Api) -> None:
    given = {
        p["name"]: p["schema"]["default"]
        for p in OPERATIONS[EXPLAIN, "post"]["parameters"]
        if "default" in p["schema"]
    }
    explicit, plain = api.json(**given).json(), api.json().json()
    assert explicit["explanations"] == plain["explanations"]
    optional = {"model", "layer", "against", "budget", "deadline_ms", "region", "check"}
    assert set(given) == set(ExplainOptions.model_fields) - optional


def test_the_document_can_be_asked_for_again() -> None:
    api = make_api()
    assert api.get("/openapi.json").json() == api.get("/openapi.json").json() == DOCUMENT


def test_the_interactive_page_is_there(api: Api) -> None:
    assert "swagger" in api.get("/docs").text
