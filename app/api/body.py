"""A request's body and options, in each of the forms they may have.

The image comes as multipart field ``image``, as a raw body, or in JSON as base64. Options come as
query parameters, form fields or JSON keys, under the same names. Nothing is guessed: an option
given twice, given differently in two places, or unknown is an error that names it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pybase64
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from app.api.multipart import parse_multipart
from app.errors import (
    BadRequest,
    BodyTooLarge,
    InvalidOption,
    MissingImage,
    UnsupportedMediaType,
)
from app.options import PredictOptions

Options = TypeVar("Options", bound=PredictOptions)

# Options are checked on the event loop: no request may bring more than a moment's work of them.
_MAX_OPTIONS = 64
_MAX_NAME = 100
_MAX_VALUE = 10_000
_MAX_JSON = 100_000  # commas and brackets: as many objects may a body become

# Bytes that are taken apart within a millisecond, whatever they are: JSON may be all brackets.
_AT_ONCE = {"multipart/": 100_000, "application/json": 4_000}
_ACCEPTED = ("multipart/form-data", "image/*", "application/octet-stream", "application/json")
_CURL = " curl: use -F image=@photo.jpg, or --data-binary with -H 'Content-Type: image/jpeg'."


@dataclass(frozen=True, slots=True)
class Upload:
    """The image's bytes, those of a mask, and the options of the body as they were written."""

    image: bytes
    options: dict[str, Any]
    mask: bytes | None = None


def takes_long(content_type: str, body: bytes) -> bool:
    """Whether taking a body apart might hold other requests up: over a millisecond."""
    kind = content_type.lower()
    return any(kind.startswith(start) and len(body) > most for start, most in _AT_ONCE.items())


def parse_body(content_type: str, body: bytes) -> Upload:
    """Take a body apart.

    Raises:
        CamserveError: 400 malformed, 415 no form of ours, 422 no image or an option given twice.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return _from_multipart(content_type, body)
    if kind == "application/json":
        return _from_json(body)
    if not kind and not body:
        raise MissingImage("The request has no body; send the image (curl: -F image=@photo.jpg).")
    if kind in {"", "application/octet-stream"} or kind.startswith("image/"):
        return Upload(body, {})
    hint = _CURL if kind == "application/x-www-form-urlencoded" else ""
    raise UnsupportedMediaType(
        f"{kind} is no way to send an image.{hint}", extra={"accepted": list(_ACCEPTED)}
    )


def parse_options(
    model: type[Options],
    query: Iterable[tuple[str, str]],
    body: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> Options:
    """Merge and check the options of query and body.

    Args:
        model: what there is to choose.
        query: names and values in their order.
        body: those of the body.
        defaults: for options that neither names, where they are not the model's own.

    Raises:
        InvalidOption: naming every option that is wrong.
    """
    merged = _once(query, "the query")
    for name, value in body.items():
        if name in merged and _entries(merged[name]) != _entries(value):
            raise InvalidOption.of(name, "is given differently in the query and in the body")
        merged[name] = value
    try:
        return model.model_validate({**(defaults or {}), **merged})
    except ValidationError as exc:
        details = exc.errors(include_url=False, include_context=False, include_input=False)
        fields = dict(map(_field, reversed(details)))  # the first complaint about each
        raise InvalidOption(
            "; ".join(f"{name}: {detail}" for name, detail in fields.items()) + ".",
            fields=tuple(fields.items()),
        ) from exc


def check_encoding(encoding: str) -> None:
    """Compressed bodies are refused: a picture is compressed already.

    Raises:
        UnsupportedMediaType: always, for any encoding but ``identity``.
    """
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding {encoding!r} is not supported; send it plain."
        )


def check_size(image: bytes, limit: int) -> None:
    """The limit holds for the image's own bytes, however they were wrapped.

    Raises:
        BodyTooLarge: over the limit.
    """
    if len(image) > limit:
        raise BodyTooLarge(
            f"The image is {len(image)} bytes; the limit is {limit}.",
            extra={"limits": {"max_body_bytes": limit}},
        )


def _from_multipart(content_type: str, body: bytes) -> Upload:
    parts = parse_multipart(content_type, body)
    fields = _once(((name, value) for name, value in parts if name != "image"), "the form")
    mask = fields.pop("mask", None)
    images = [value for name, value in parts if name == "image"]
    if not images:
        raise MissingImage("The form has no field 'image' (curl: -F image=@photo.jpg).")
    if len(images) > 1:
        raise InvalidOption.of("image", "is given twice in the form")
    options = {name: _text(name, value) for name, value in fields.items()}
    return Upload(images[0], options, mask)


def _text(name: str, value: bytes) -> str:
    if len(value) > _MAX_VALUE:
        raise InvalidOption.of(name, f"is over {_MAX_VALUE} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError as exc:
        raise BadRequest(f"The form field {name!r} is not UTF-8.") from exc


def _from_json(body: bytes) -> Upload:
    # Millions of little values would hold the interpreter for seconds. Base64 has none of these.
    if sum(map(body.count, (b",", b"[", b"{"))) > _MAX_JSON:
        raise BadRequest("The JSON body holds far too many values.")
    try:
        content = json.loads(body, object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise BadRequest("The body is not the JSON that its content type promises.") from exc
    if not isinstance(content, dict):
        raise BadRequest("The JSON body must be an object with the key 'image'.")
    if "image" not in content:
        raise MissingImage("The JSON body has no key 'image' (base64 or a data URI).")
    image = _base64("image", content.pop("image"))
    mask = _base64("mask", content.pop("mask")) if "mask" in content else None
    for name, value in content.items():
        _check_json(name, value)
    return Upload(image, content, mask)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, _ in pairs:
        name.encode()  # half a surrogate pair is no text: ValueError
    return _once(pairs, "the JSON body")


def _no_constant(constant: str) -> None:
    raise BadRequest(f"{constant} is not JSON.")


def _check_json(name: str, value: object) -> None:
    entries = value if isinstance(value, list) else [value]
    if any(isinstance(entry, list | dict) for entry in entries):
        raise InvalidOption.of(name, "must be a plain value, or a list of them")
    if sum(len(str(entry)) + 1 for entry in entries) > _MAX_VALUE:
        raise InvalidOption.of(name, f"is over {_MAX_VALUE} characters")


def _base64(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise InvalidOption.of(name, "must be text: base64, or a data URI")
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidOption.of(name, "is a data URI, but not one of base64")
    try:
        return pybase64.b64decode(text, validate=True)
    except ValueError as exc:
        raise InvalidOption.of(name, "is not base64 (A-Z a-z 0-9 + / =, no line breaks)") from exc


def _once(pairs: Iterable[tuple[str, Any]], place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if len(name) > _MAX_NAME or len(found) >= _MAX_OPTIONS:
            raise BadRequest(f"Too many names, or too long a name, in {place}.")
        if name in found:
            raise InvalidOption.of(name, f"is given twice in {place}")
        found[name] = value
    return found


def _entries(value: object) -> list[str | float]:
    """The same value reads the same from a query and from JSON."""
    if isinstance(value, str):
        return [_plain(part.strip()) for part in value.split(",")]
    return [_plain(part) for part in (value if isinstance(value, list) else [value])]


def _plain(value: object) -> str | float:
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        return float(text)
    except ValueError:
        return text


def _field(error: ErrorDetails) -> tuple[str, str]:
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        return name, "there is no such option"
    message = error["msg"].removeprefix("Value error, ")
    if not name:  # our own checks of several options together name theirs
        name, message = message.split(": ", 1)
    return name, message
