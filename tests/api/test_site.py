"""The page, its files and the samples."""

import asyncio
from pathlib import Path

import pytest

from app.api.schemas import SamplesResponse
from tests.api.client import PHOTO, Api, Wire, make_api

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    (folder / "one.png").write_bytes(PHOTO)
    (folder / "one.mask.png").write_bytes(PHOTO)
    (folder / "samples.toml").write_text(
        '[[sample]]\nfile = "one.png"\nmask = "one.mask.png"\nmodel = "colours"\n'
        'caption = "Red and green"\n',
        "utf-8",
    )
    (tmp_path / "secret.txt").write_text("secret", "utf-8")
    return folder


def test_a_browser_gets_the_page_with_a_policy_that_allows_nothing_foreign(api: Api) -> None:
    response = api.get("/", Accept=BROWSER)
    assert response.headers["Content-Type"].startswith("text/html")
    assert "<html" in response.text
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["Vary"].startswith("Accept")


@pytest.mark.parametrize("accept", ["*/*", "application/json", "image/png", "", "junk"])
def test_anybody_else_learns_that_the_service_is_alive(api: Api, accept: str) -> None:
    response = api.get("/", Accept=accept)
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


def test_the_pages_files_are_served_with_their_types(api: Api) -> None:
    assert api.get("/page/page.js").headers["Content-Type"].startswith("text/javascript")
    assert api.get("/page/page.css").headers["Content-Type"].startswith("text/css")


@pytest.mark.parametrize(
    "path",
    [
        "/page/../application.py",
        "/page/%2e%2e/application.py",
        "/page//etc/passwd",
        "/page/",
        "/samples/../secret.txt",
        "/samples/../../secret.txt",
        "/page/../page/../site.py",
        f"/page/{'x' * 300}",
        "/page/a\x00b",
    ],
)
def test_nothing_outside_the_folders_is_served(samples: Path, path: str) -> None:
    wire = Wire(path=path, method="GET")
    wire.body(b"")
    asyncio.run(wire.call(make_api(samples=samples).asgi))
    assert wire.status == 404
    assert wire.answer_headers["content-type"] == "application/problem+json"


def test_a_file_cannot_be_written(api: Api) -> None:
    assert api.request("PUT", "/page/page.js", content=b"x").status_code == 405


def test_samples_are_listed_and_served(samples: Path) -> None:
    api = make_api(samples=samples)
    (sample,) = SamplesResponse.model_validate(api.get("/api/v1/samples").json()).samples
    assert (sample.name, sample.model, sample.caption) == ("one", "colours", "Red and green")
    assert api.get(sample.url).content == PHOTO
    assert api.get(sample.mask).headers["Content-Type"] == "image/png"


def test_without_samples_the_list_is_empty(api: Api, tmp_path: Path) -> None:
    assert api.get("/api/v1/samples").json() == {"samples": []}
    assert make_api(samples=tmp_path).get("/api/v1/samples").json() == {"samples": []}
