"""A headless Chromium, driven over the W3C WebDriver protocol."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.server import wait_for

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1280,1000",
)  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name for a reference


class Browser:
    """One session: a page, and what a person does with it."""

    def __init__(self, session: httpx.Client) -> None:
        self._session = session

    def open(self, url: str) -> None:
        self._command("url", url=url)

    def run(self, script: str, *arguments: object) -> Any:
        return self._command("execute/sync", script=script, args=arguments)

    def choose_file(self, selector: str, file: Path) -> None:
        element = self._command("element", using="css selector", value=selector)[_ELEMENT]
        self._command(f"element/{element}/value", text=str(file))

    def wait_until(self, script: str) -> None:
        wait_for(lambda: bool(self.run(f"return {script}")))

    def console(self) -> list[str]:
        """Errors that the page has logged, violations of its policy among them."""
        entries = self._command("se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def _command(self, name: str, **body: object) -> Any:
        response = self._session.post(name, json=body)
        assert response.status_code == 200, response.text
        return response.json()["value"]


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser with an empty profile; ended at the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with (
        tempfile.TemporaryDirectory() as profile,
        subprocess.Popen(
            ["chromedriver", f"--port={port}", "--silent"], stdout=subprocess.DEVNULL
        ) as driver,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        try:
            wait_for(lambda: is_up(client))
            yield from _session(client, profile)
        finally:
            driver.terminate()


def _session(client: httpx.Client, profile: str) -> Iterator[Browser]:
    options = {
        "goog:chromeOptions": {"args": [*_FLAGS, f"--user-data-dir={profile}"]},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    created = client.post("/session", json={"capabilities": {"alwaysMatch": options}}).json()
    path = f"/session/{created['value']['sessionId']}"
    with httpx.Client(base_url=f"{client.base_url}{path}/", timeout=120) as session:
        yield Browser(session)
    client.delete(path)


def is_up(client: httpx.Client) -> bool:
    try:
        return bool(client.get("/status").json()["value"]["ready"])
    except httpx.TransportError:
        return False
