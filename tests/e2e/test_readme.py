"""What the README tells people to run does run."""

import base64
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.options import ExplainOptions
from app.settings import Settings
from tests.e2e.browser import browsing
from tests.server import ROOT, Server, serving

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("readme") / "log"
    shipped = {"APP_MODELS_DIR": str(ROOT / "models"), "APP_MODELS": "shapes,lesion"}
    with serving(log, **shipped) as running:
        yield running.wait_until_ready()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the README's relative paths hold."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    return tmp_path


def pointed_at(server: Server, code: str) -> str:
    return code.replace("http://localhost:8000", server.url).replace("localhost:8000", server.url)


@pytest.mark.parametrize("code", blocks("bash"))
@pytest.mark.e2e
def test_shell_snippets_run(code: str, server: Server, folder: Path) -> None:
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", pointed_at(server, code)],
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    made = folder / "overlay.png"
    picture = made.read_bytes() if made.exists() else b""
    assert b'"explanations"' in ended.stdout or picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("code", blocks("python"))
def test_python_snippets_run(code: str, server: Server, folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", pointed_at(server, code)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "%" in ended.stdout
    assert (folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def front_end(tmp_path: Path) -> Iterator[str]:
    """An empty page from another origin."""
    (tmp_path / "index.html").write_text("<!doctype html><title>front end</title>")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{front.server_port}/"
        front.shutdown()


@pytest.mark.parametrize("code", blocks("javascript"))
@pytest.mark.e2e
def test_javascript_snippets_run_in_a_page_of_another_origin(
    code: str, server: Server, front_end: str
) -> None:
    picture = base64.b64encode((ROOT / "models/samples/shapes-three.jpg").read_bytes()).decode()
    program = f"""
        const bytes = Uint8Array.from(atob("{picture}"), (c) => c.charCodeAt(0));
        const fileInput = {{ files: [new File([bytes], "photo.jpg")] }};
        const overlayImage = new Image();
        window.result = (async () => {{
            {pointed_at(server, code)}
            await overlayImage.decode();
            return overlayImage.naturalWidth;
        }})().catch(String).then((result) => {{ window.said = result; }});
    """
    with browsing() as browser:
        browser.open(front_end)
        browser.run(program)
        browser.wait_until("window.said !== undefined")
        assert browser.run("return window.said") == 480


def test_every_option_stands_in_the_table() -> None:
    for name, field in ExplainOptions.model_fields.items():
        (row,) = re.findall(rf"^\| `{name}` \| (.*)$", README, re.MULTILINE)
        default = field.default
        if isinstance(default, tuple):
            default = default[0] if default else None
        if default is not None and default is not False:
            assert f"`{default}`" in row or f"{default} |" in row


def test_every_setting_that_is_written_about_exists_and_has_a_flag() -> None:
    files = ["README.md", "CONTRIBUTING.md", "Dockerfile", "docker-compose.yml"]
    texts = [(ROOT / file).read_text() for file in files]
    texts += [file.read_text() for file in (ROOT / "docs").glob("*.md")]
    named = {name for text in texts for name in re.findall(r"\bAPP_([A-Z_]+[A-Z])\b", text)}
    named.remove("ADMIN_TOKEN")  # a secret: from the environment alone
    assert {name.lower() for name in named} <= set(Settings.model_fields)
    assert {"HOST", "PORT", "MODELS", "DEADLINE_S", "MAX_QUEUE"} <= named
    help_text = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--help"],
        capture_output=True, text=True, check=True, timeout=60, cwd=ROOT,
    ).stdout  # fmt: skip
    for name in named:
        assert f"--{name.lower().replace('_', '-')}" in help_text


def test_the_files_that_the_readme_links_to_exist() -> None:
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / link).exists(), link
