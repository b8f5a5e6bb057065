"""Whatever is sent, the fault is never the server's."""

import asyncio
import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.options import ExplainOptions
from tests.api.client import EXPLAIN, PHOTO, PREDICT, Wire, form_body, in_base64, make_api

API = make_api()
TYPES = [
    "multipart/form-data; boundary=b", "application/json", "image/png", "application/octet-stream",
    "application/x-www-form-urlencoded",
]  # fmt: skip
FORM, _ = form_body(("image", PHOTO), ("top_k", b"2"))
NAMES = st.sampled_from([*ExplainOptions.model_fields, "image"]) | st.text(max_size=120)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
relaxed = settings(max_examples=80, deadline=None, derandomize=True)


def ask(path: str = EXPLAIN, **arguments: Any) -> int:
    response = API.request("POST", path, **arguments)
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert response.headers["Content-Type"] == "application/problem+json"
        json.loads(response.text)
    return response.status_code


@relaxed
@given(st.binary(), st.sampled_from(TYPES))
def test_any_bytes_of_any_type(body: bytes, content_type: str) -> None:
    ask(content=body, headers={"Content-Type": content_type})


@relaxed
@given(st.integers(0, len(FORM)), st.binary(max_size=40), st.integers(0, 40))
def test_any_damage_to_a_form(at: int, patch: bytes, cut: int) -> None:
    body = FORM[:at] + patch + FORM[at + cut :]
    ask(content=body, headers={"Content-Type": TYPES[0]})


@relaxed
@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=300))
@example('multipart/form-data; boundary="b')
@example("multipart/form-data; boundary=b; boundary=c; x")
def test_any_content_type(content_type: str) -> None:
    ask(content=FORM, headers={"Content-Type": content_type.encode("latin-1")})


@relaxed
@given(NAMES, st.text(), st.sampled_from([EXPLAIN, PREDICT]))
@example("deadline_ms", "9" * 400, EXPLAIN)
@example("classes", "--1", EXPLAIN)
def test_any_option_in_the_query(name: str, value: str, path: str) -> None:
    ask(path, content=PHOTO, params={name: value.encode("utf-8", "replace")})


@relaxed
@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, st.text(), max_size=2))
@example({"\ud800": 1}, {})
@example({"model": "\ud800"}, {})
@example({"classes": ["\ud800"]}, {})
@example({"deadline_ms": 10**400}, {})
@example({"counterfactual": []}, {})
@example({"top_k": 1e999}, {"top_k": "inf"})
def test_any_json(keys: dict[str, Any], query: dict[str, str]) -> None:
    body = json.dumps({"image": in_base64(), **keys})
    headers = {"Content-Type": "application/json"}
    ask(content=body, params={k: v.encode("utf-8", "replace") for k, v in query.items()},
        headers=headers)  # fmt: skip


@relaxed
@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=60))
@example("q=")
@example(";;;,,,")
@example("image/png;q=nan, */*;q=1e9")
def test_any_accept(accept: str) -> None:
    ask(content=PHOTO, headers={"Accept": accept.encode("latin-1")})


@relaxed
@given(st.sampled_from(["GET", "POST", "HEAD"]), st.text(max_size=60))
@example("GET", "page/\0")
@example("GET", "api/v1/models/\x85")
def test_any_path(method: str, path: str) -> None:
    wire = Wire(path=f"/{path}", method=method)
    wire.body(b"")
    asyncio.run(wire.call(API.asgi))
    assert wire.status < 500
