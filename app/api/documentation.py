"""What OpenAPI cannot see in the code: bodies that are parsed by hand, and the error shape."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from app.api.schemas import Problem
from app.options import ExplainOptions, PredictOptions

Schema = dict[str, Any]

_REF = "#/components/schemas/{model}"
_PROBLEM = {"application/problem+json": {"schema": {"$ref": _REF.format(model="Problem")}}}
_MEANINGS = {
    400: "Malformed HTTP, multipart or JSON",
    401: "API key missing or wrong",
    404: "Unknown model, or one that is not loaded",
    406: "Not in Accept",
    408: "The body came too slowly",
    413: "Too many bytes",
    415: "Not an accepted type",
    422: "Undecodable picture, or bad option",
    429: "Overloaded; see Retry-After",
    431: "Address or headers too large",
    500: "The model's numbers are not finite, or a fault of the server",
    503: "Loading, draining, or no worker",
    504: "Deadline exceeded",
}
_KNOWN = {"description": "If-None-Match names this answer (only where the server keeps answers)"}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
OPEN: Schema = {"security": []}  # of a route that needs no key
_BINARY = {"type": "string", "format": "binary"}
_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


class Documented(FastAPI):
    """FastAPI, with the errors and the keys among the components of its document.

    Args:
        keyed: whether requests need a key.
        others: FastAPI's own.
    """

    def __init__(self, *, keyed: bool, **others: Any) -> None:  # noqa: ANN401 - FastAPI's own
        super().__init__(**others)
        self._keyed = keyed

    def openapi(self) -> Schema:
        """The document."""
        document = super().openapi()
        _, errors = models_json_schema([(Problem, "serialization")], ref_template=_REF)
        document["components"]["schemas"].update(errors["$defs"])
        if self._keyed:
            document["components"]["securitySchemes"] = _KEYS
            document["security"] = [{name: []} for name in _KEYS]
        return document


def errors(*statuses: int) -> dict[int | str, Schema]:
    """The ``responses`` of a route that can fail in these ways."""
    return {status: {"description": _MEANINGS[status], "content": _PROBLEM} for status in statuses}


def predict() -> Schema:
    """Keyword arguments of the route."""
    responses = {304: _KNOWN, **errors(*_MEANINGS)}
    return {"responses": responses, "openapi_extra": _upload(PredictOptions)}


def explain(pictures: Sequence[str]) -> Schema:
    """Keyword arguments of the route, which answers with a picture too."""
    top = {
        "X-Top-Index": {"schema": {"type": "integer"}},
        "X-Top-Score": {"schema": {"type": "number"}},
        "X-Top-Label": {"schema": {"type": "string"}, "description": "Percent-encoded."},
    }
    answer = {
        "description": "As Accept has it: everything; the overlay alone, and the X-Top headers; or"
        " events: progress, then result or error.",
        "headers": top,
        "content": {
            **{media_type: {"schema": _BINARY} for media_type in pictures},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
    responses = {200: answer, 304: _KNOWN, **errors(*_MEANINGS)}
    return {"responses": responses, "openapi_extra": _upload(ExplainOptions)}


def _upload(options: type[PredictOptions]) -> Schema:
    """An image, and options in any of the three forms."""
    schema = options.model_json_schema(ref_template=_REF)
    properties = {name: _present(field) for name, field in schema["properties"].items()}
    return {
        "parameters": [_parameter(name, field) for name, field in properties.items()],
        "requestBody": {"required": True, "content": _bodies(properties)},
    }


def _bodies(properties: Schema) -> Schema:
    curl = 'curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" …?top_k=3'
    raw = {"summary": "the file itself; options in the query", "value": f"({curl})"}
    picture = {"schema": _BINARY, "examples": {"raw": raw}}
    mask = {"mask": _BINARY} if "region" in properties else {}
    text = {"type": "string", "description": "base64, or a data URI"}
    lists = [name for name, field in properties.items() if field.get("type") == "array"]
    return {
        "multipart/form-data": {
            "schema": _object(_BINARY, {**mask, **properties}),
            "encoding": {name: {"style": "form", "explode": False} for name in lists},
            "examples": {"form": {"summary": "a form", "value": {"image": "(file)", "top_k": 3}}},
        },
        "image/jpeg": picture,
        "image/png": picture,
        "image/webp": picture,
        "application/octet-stream": picture,
        "application/json": {
            "schema": _object(text, {**dict.fromkeys(mask, text), **properties}),
            "examples": {
                "base64": {"summary": "base64", "value": {"image": _PIXEL, "top_k": 3}},
                "data URI": {
                    "summary": "a data URI",
                    "value": {"image": f"data:image/png;base64,{_PIXEL}", "top_k": 3},
                },
            },
        },
    }


def _object(image: Schema, properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["image"],
        "properties": {"image": image, **properties},
        "additionalProperties": False,
    }


def _parameter(name: str, field: Schema) -> Schema:
    as_list = {"style": "form", "explode": False} if field.get("type") == "array" else {}
    schema = {key: value for key, value in field.items() if key != "description"}
    about = {"name": name, "in": "query", "required": False, "description": field["description"]}
    return {**about, **as_list, "schema": schema}


def _present(field: Schema) -> Schema:
    """An option that may be absent: nobody sends null."""
    if field.get("default") == []:
        return {key: value for key, value in field.items() if key != "default"}
    if "anyOf" not in field:
        return field
    (only,) = (choice for choice in field["anyOf"] if choice != {"type": "null"})
    rest = {key: value for key, value in field.items() if key not in {"anyOf", "default"}}
    return {**only, **rest}
