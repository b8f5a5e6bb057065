"""API keys, where the operator has set some."""

import asyncio
from pathlib import Path

import pytest

from app.api.keys import read_keys
from app.errors import SetupError
from tests.api.client import Api, Wire, make_api


@pytest.fixture
def locked() -> Api:
    return make_api(keys=["first-key", "clé"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": b"Bearer first-key"},
        {"Authorization": b"bearer  first-key"},
        {"X-API-Key": b"first-key"},
        {"X-API-Key": "clé".encode()},
        {"Authorization": b"Basic x", "X-API-Key": b"first-key"},
        {"Authorization": b"Bearer other", "X-API-Key": b"first-key"},
    ],
)
def test_a_right_key_opens_in_either_header(locked: Api, headers: dict[str, bytes]) -> None:
    assert locked.request("GET", "/api/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"X-API-Key": ""},
        {"X-API-Key": "first-key2"},
    ],
)
def test_a_wrong_key_is_401_and_says_how_to_send_one(locked: Api, headers: dict[str, str]) -> None:
    response = locked.raw(headers=headers)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "X-API-Key" in response.json()["detail"]
    assert locked.engine.jobs == []


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/page/page.js", "/docs", "/openapi.json"]
)
def test_probes_pages_and_the_description_of_the_api_need_no_key(locked: Api, path: str) -> None:
    assert locked.get(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/models",
        "/api/v1/samples",
        "/metrics",
        "/docs/oauth2-redirect",
        "/nowhere",
        "/livezz",
        "/pages",
        "//",
    ],
)
def test_all_else_needs_one(locked: Api, path: str) -> None:
    assert locked.request("GET", f"http://test{path}").status_code == 401


@pytest.mark.parametrize(
    "path", ["/page/../api/v1/models", "/livez/../metrics", "/samples/../../metrics"]
)
def test_an_open_path_is_no_way_around_the_key(locked: Api, path: str) -> None:
    wire = Wire(path=path, method="GET")
    wire.body(b"")
    asyncio.run(wire.call(locked.asgi))
    assert wire.status in {401, 404}


def test_keys_are_read_one_a_line(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the front end\n first \n\nsecond\n", "utf-8")
    assert read_keys(file) == ["first", "second"]
    assert read_keys(None) == []


@pytest.mark.parametrize("content", [None, b"", b"# nobody\n", b"\xff"])
def test_a_key_file_that_would_lock_everybody_out_is_refused_at_start(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SetupError, match="APP_API_KEYS_FILE"):
        read_keys(file)
