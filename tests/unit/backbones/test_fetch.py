"""Weights from a URL: whole or not at all, from the right host, and on from where it stopped."""

import hashlib
import io
import threading
from collections.abc import Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request

import pytest
import torch

from app.backbones import fetch as fetching
from app.backbones.fetch import fetch
from app.errors import ModelCheckFailed

CONTENT = bytes(range(256)) * 40_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves one file, with ranges; cuts its first answers short where told to."""

    cut_after: int | None = None
    ranges: bool = True
    redirect: str = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/net.safetensors"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.server.redirect:
            self.send_response(302)
            self.send_header("Location", self.server.redirect)
            self.end_headers()
            return
        begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if begin >= len(CONTENT):
            self.send_error(416)
            return
        begin = begin if self.server.ranges else 0
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        end = self.server.cut_after
        self.server.cut_after = None
        self.wfile.write(CONTENT[begin:end])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    return tmp_path / "checkpoints"


def test_a_file_is_fetched_once(server: Server) -> None:
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_cut_goes_on(server: Server, cache: Path, ranges: bool) -> None:
    server.cut_after, server.ranges = 1_000_000, ranges
    with pytest.raises(ModelCheckFailed, match="cut off after 1000000 bytes"):
        fetch(server.url, SHA256)
    assert not [file for file in cache.iterdir() if file.suffix == ".safetensors"]
    assert fetch(server.url, SHA256).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000000-"]


def test_a_part_that_is_whole_already_is_taken(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / f"{SHA256[:16]}-net.safetensors.part").write_bytes(CONTENT)
    assert fetch(server.url, SHA256).read_bytes() == CONTENT


def test_another_file_is_refused_and_forgotten(server: Server, cache: Path) -> None:
    with pytest.raises(ModelCheckFailed, match=f"has sha256 {SHA256}"):
        fetch(server.url, "0" * 64)
    assert [file.suffix for file in cache.iterdir()] == [".lock"]


def test_a_server_that_is_not_there_is_said_with_what_to_do(server: Server) -> None:
    with pytest.raises(ModelCheckFailed, match="put the file where it would be kept"):
        fetch("http://127.0.0.1:9/net.pth", SHA256)


def test_a_redirect_may_lead_to_the_host_that_was_named(server: Server) -> None:
    with Server() as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        server.redirect = other.url
        assert fetch(server.url, SHA256).read_bytes() == CONTENT
        other.shutdown()


def test_a_redirect_to_a_private_address_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Server() as inside:
        threading.Thread(target=inside.serve_forever, daemon=True).start()
        server.redirect = inside.url.replace("127.0.0.1", "localhost")
        with pytest.raises(ModelCheckFailed, match="redirected to a private address"):
            fetch(server.url, SHA256)
        assert inside.asked == []
        monkeypatch.setattr(fetching, "_is_private", lambda _host: False)
        assert fetch(server.url, SHA256).read_bytes() == CONTENT  # as a public one is followed
        inside.shutdown()


def test_a_redirect_from_https_to_http_is_refused() -> None:
    handler = fetching._Redirects("example.org")
    request = Request("https://example.org/a")
    with pytest.raises(OSError, match="from https"):
        handler.redirect_request(
            request, io.BytesIO(), 302, "", HTTPMessage(), "http://example.org/a"
        )
