"""Bodies that are broken, too large, too slow or of no use."""

import asyncio
import json

import pytest

from app.api import limits
from app.api.body import takes_long
from tests.api.client import (
    EXPLAIN,
    MAX_BODY,
    PHOTO,
    Api,
    Wire,
    form_body,
    in_base64,
    make_api,
    picture,
)

MULTIPART = "multipart/form-data; boundary=b"
_LONG_BOUNDARY = f"; boundary={'b' * 257}"
WRAPPED = MAX_BODY + 64 * 1024  # what a form around the largest image may have


def outcome(api: Api, body: bytes, content_type: str) -> tuple[int, str]:
    response = api.raw(photo=body, headers={"Content-Type": content_type})
    assert response.headers["Content-Type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize(
    ("content_type", "size", "beside"),
    [
        ("image/jpeg", 10_000_000, False),
        ("", 10_000_000, False),
        ("Multipart/Form-Data; boundary=b", 50_000, False),
        ("multipart/form-data; boundary=b", 200_000, True),
        ("application/json", 2_000, False),
        ("application/JSON; charset=utf-8", 20_000, True),
    ],
)
def test_what_takes_long_is_taken_apart_beside_the_event_loop(
    content_type: str, size: int, beside: bool
) -> None:
    assert takes_long(content_type, bytes(size)) is beside


def exchange(api: Api, wire: Wire) -> dict[str, object]:
    """The problem that a request by hand gets."""
    asyncio.run(asyncio.wait_for(wire.call(api.asgi), 10))
    problem: dict[str, object] = json.loads(wire.answer)
    return problem


@pytest.mark.parametrize(
    "body",
    [
        form_body(("image", PHOTO))[0][:-30],
        form_body(("image", PHOTO))[0][:-4],
        b"",
        b"no boundary at all",
        b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\n',
        b"--b\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n--b--\r\n",
        b"--b\r\n\r\nwithout headers\r\n--b--\r\n",
        b"--b\r\n" + b"A: b\r\n" * 1000 + b"\r\n\r\n--b--\r\n",
        b"--b\r\nA: " + b"b" * 100_000 + b"\r\n\r\n\r\n--b--\r\n",
    ],
)
def test_a_broken_form_is_400(api: Api, body: bytes) -> None:
    assert outcome(api, body, MULTIPART) == (400, "malformed_multipart")


@pytest.mark.parametrize(
    "content_type",
    [f"multipart/form-data{rest}" for rest in ("", "; boundary=", "; boundary=c", _LONG_BOUNDARY)],
)
def test_a_form_without_its_boundary_is_400(api: Api, content_type: str) -> None:
    body, _ = form_body(("image", PHOTO))
    assert outcome(api, body, content_type) == (400, "malformed_multipart")


def test_a_form_may_have_64_parts_and_no_more(api: Api) -> None:
    def parts(count: int) -> bytes:
        return form_body(("image", PHOTO), *((f"x{i}", b"") for i in range(count - 1)))[0]

    assert outcome(api, parts(64), MULTIPART) == (422, "invalid_option")  # read, and unknown
    assert outcome(api, parts(65), MULTIPART) == (400, "malformed_request")


def test_a_form_field_that_is_not_utf_8_is_400(api: Api) -> None:
    body, _ = form_body(("image", PHOTO), ("model", b"\xff"))
    assert outcome(api, body, MULTIPART) == (400, "malformed_request")


def test_a_long_form_field_is_refused_by_name(api: Api) -> None:
    body, headers = form_body(("image", PHOTO), ("model", b"x" * 10_001))
    assert api.raw(photo=body, headers=headers).json()["errors"][0]["field"] == "model"


def test_a_form_without_an_image_says_how_to_send_one(api: Api) -> None:
    body, headers = form_body(("picture", PHOTO))
    response = api.raw(photo=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "missing_image")
    assert "-F image=@" in response.json()["detail"]


def test_two_images_in_a_form_are_refused(api: Api) -> None:
    body, headers = form_body(("image", PHOTO), ("image", PHOTO))
    response = api.raw(photo=body, headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"] == [{"field": "image", "detail": "is given twice in the form"}]


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"", "", "missing_image"),
        (b"", "image/jpeg", "empty_image"),
        (b"", "application/octet-stream", "empty_image"),
        (form_body(("image", b""))[0], MULTIPART, "empty_image"),
        (b'{"image": ""}', "application/json", "empty_image"),
        (b"{}", "application/json", "missing_image"),
        (PHOTO[: len(PHOTO) // 2], "image/png", "truncated_image"),
    ],
)
def test_no_image_and_an_empty_or_broken_one_are_422(
    api: Api, body: bytes, content_type: str, code: str
) -> None:
    assert outcome(api, body, content_type) == (422, code)


def test_bytes_that_are_no_picture_are_415(api: Api) -> None:
    assert outcome(api, b"%PDF-1.7", "image/png") == (415, "unsupported_image")


def test_a_picture_of_too_many_pixels_is_422_with_the_limit(api: Api) -> None:
    problem = api.raw(photo=picture(size=(400, 300))).json()
    assert (problem["code"], problem["limits"]) == ("too_many_pixels", {"max_pixels": 100_000})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"image"',
        b"null",
        b"\xff\xfe",
        b'{"image": "\xff"}',
        b'{"image": NaN}',
        b'{"image": "", "alpha": Infinity}',
        b'{"image": ' + b"9" * 5000 + b"}",
        b"[" * 60_000 + b"]" * 60_000,
        b'{"image": "", "classes": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b"{" + b",".join(b'"k%d": 1' % i for i in range(65)) + b"}",
        b'{"image": "", "' + b"k" * 101 + b'": 1}',
    ],
)
def test_broken_json_is_400(api: Api, body: bytes) -> None:
    assert outcome(api, body, "application/json; charset=utf-8") == (400, "malformed_request")


def test_json_of_a_great_many_values_is_refused_unread(api: Api) -> None:
    many = b'{"image": "", "x": [' + b"[]," * 60_000 + b"[]]}"
    assert len(many) < MAX_BODY * 4 // 3
    assert outcome(api, many, "application/json") == (400, "malformed_request")


def test_json_that_is_nested_deeply_is_refused_whatever_the_query_says(api: Api) -> None:
    for depth in (2, 100, 400, 800):
        body = b'{"image": "", "classes": ' + b"[" * depth + b"]" * depth + b"}"
        headers = {"Content-Type": "application/json"}
        assert api.raw(photo=body, headers=headers, classes="0").status_code in {400, 422}


@pytest.mark.parametrize(
    "image",
    [
        "%%%",
        "YQ",
        "YQ=",
        "Y Q==",
        "YQ==\n",
        "é",
        "data:image/png,abc",
        "data:image/png;base64",
        1,
        None,
        ["YQ=="],
        True,
    ],
)
def test_an_image_that_is_no_base64_is_refused_by_name(api: Api, image: object) -> None:
    response = api.json(image=image)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "image"


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/mixed", "x"])
def test_another_content_type_is_415_with_those_accepted(api: Api, content_type: str) -> None:
    response = api.raw(headers={"Content-Type": content_type})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert "multipart/form-data" in response.json()["accepted"]


def test_curls_default_content_type_is_415_with_a_hint(api: Api) -> None:
    response = api.request("POST", EXPLAIN, data={"image": "@photo.jpg"})
    assert response.status_code == 415
    assert "-F image=@" in response.json()["detail"]


def test_a_compressed_body_is_415_unread(api: Api) -> None:
    assert api.raw(headers={"Content-Encoding": "gzip"}).status_code == 415
    assert api.raw(headers={"Content-Encoding": "Identity"}).status_code == 200


def test_an_announced_giant_is_413_with_the_limit(api: Api) -> None:
    response = api.raw(photo=bytes(WRAPPED + 1))
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
    assert response.json()["limits"] == {"max_body_bytes": MAX_BODY}


def test_a_body_that_waits_to_be_asked_for_is_refused_at_once(api: Api) -> None:
    wire = Wire(headers={"Content-Length": "9000000", "Expect": "100-continue"})
    assert exchange(api, wire)["code"] == "body_too_large"
    assert (wire.taken, wire.answer_headers["connection"]) == (0, "close")


def test_a_giant_in_chunks_is_413_as_soon_as_it_is_one(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_DRAIN_BYTES", 1_000_000)
    wire = Wire(headers={"Content-Type": "image/png"})
    for _ in range(100):
        wire.body(bytes(100_000), more=True)
    assert exchange(api, wire)["code"] == "body_too_large"
    assert wire.taken < 2_000_000


@pytest.mark.parametrize("form", ["raw", "form", "json"])
def test_the_limit_holds_for_the_image_however_it_is_wrapped(form: str) -> None:
    def status(limit: int) -> int:
        api = make_api(max_body_bytes=limit)
        return {"raw": api.raw, "form": api.form, "json": api.json}[form]().status_code

    assert status(len(PHOTO)) == 200
    assert status(len(PHOTO) - 1) == 413


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8"])
def test_base64_may_be_a_third_longer_than_the_image_it_holds(content_type: str) -> None:
    api = make_api(max_body_bytes=1_000_000)
    filler = PHOTO + bytes(1_000_000 - len(PHOTO))
    body = json.dumps({"image": in_base64(filler)}).encode()
    assert len(body) > 1_300_000
    response = api.raw(photo=body, headers={"Content-Type": content_type})
    assert response.status_code == 200, response.text


def test_a_body_that_does_not_arrive_is_408(api: Api) -> None:
    wire = Wire(headers={"Content-Type": "image/png"})
    wire.body(PHOTO[:10], more=True)
    problem = exchange(make_api(receive_timeout_s=0.05), wire)
    assert (wire.status, problem["code"], problem["retryable"]) == (408, "body_too_slow", True)
    assert wire.answer_headers["connection"] == "close"


def test_large_headers_are_431(api: Api) -> None:
    assert api.get("/livez", **{"X-Junk": "x" * 33_000}).status_code == 431
    assert api.get("/livez", **{"X-Junk": "x" * 30_000}).status_code == 200


def test_a_long_address_is_431(api: Api) -> None:
    response = api.get("/livez?" + "x" * 33_000)
    assert (response.status_code, response.json()["code"]) == (431, "headers_too_large")


def test_the_body_of_a_refused_request_is_read_so_that_the_client_sees_the_answer(api: Api) -> None:
    wire = Wire(path="/nowhere")
    for _ in range(9):
        wire.body(bytes(100_000), more=True)
    wire.body(b"the end")
    assert exchange(api, wire)["code"] == "not_found"
    assert wire.taken == 900_007
    assert "connection" not in wire.answer_headers


def test_of_a_refused_body_no_more_is_read_than_costs_little(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_DRAIN_BYTES", 1_000_000)
    wire = Wire(headers={"Content-Length": "9000000"})
    for _ in range(90):
        wire.body(bytes(100_000), more=True)
    assert exchange(api, wire)["code"] == "body_too_large"
    assert wire.taken == 1_000_000
    assert wire.answer_headers["connection"] == "close"
