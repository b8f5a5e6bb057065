"""The page in a real browser, before a real server with the models that are shipped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.browser import Browser, browsing
from tests.pictures import make_upload
from tests.server import ROOT, Server, serving

pytestmark = pytest.mark.e2e

SHIPPED = {"APP_MODELS_DIR": str(ROOT / "models"), "APP_MODELS": "shapes,lesion"}
DRAWN = "!document.querySelector('#heatmap').hidden && document.querySelector('#heatmap').complete"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("page") / "log", **SHIPPED) as running:
        yield running.wait_until_ready()


@pytest.fixture
def browser() -> Iterator[Browser]:
    with browsing() as session:
        yield session


def test_a_chosen_picture_gets_bars_and_a_heatmap_right_over_it(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(make_upload(500, 300))
    browser.open(server.url)
    browser.wait_until("!document.querySelector('#model').disabled")
    browser.choose_file("#file", tmp_path / "photo.jpg")
    browser.wait_until("document.querySelectorAll('#classes li').length === 5")
    browser.wait_until(DRAWN)
    boxes = browser.run(
        "return ['#picture', '#heatmap'].map((id) => {"
        " const box = document.querySelector(id).getBoundingClientRect();"
        " return [box.x, box.y, box.width, box.height]; })"
    )
    assert boxes[0] == boxes[1]
    assert boxes[0][2] / boxes[0][3] == pytest.approx(500 / 300, rel=0.01)
    assert browser.console() == []


def test_a_sample_is_explained_by_its_own_model_and_opacity_needs_no_request(
    server: Server, browser: Browser
) -> None:
    browser.open(server.url)
    browser.wait_until("document.querySelectorAll('#samples button').length >= 6")
    browser.run(
        "[...document.querySelectorAll('#samples button')]"
        ".find((button) => button.innerHTML.includes('lesion')).click()"
    )
    browser.wait_until(DRAWN)
    assert browser.run("return document.querySelector('#model').value") == "lesion"
    assert "not medical" in browser.run("return document.querySelector('#description').innerText")
    before = server.metric("camserve_requests_total")
    browser.run(
        "const slider = document.querySelector('#opacity'); slider.value = 10;"
        " slider.dispatchEvent(new Event('input'))"
    )
    opacity = float(
        browser.run("return getComputedStyle(document.querySelector('#heatmap')).opacity")
    )
    assert opacity == pytest.approx(0.1)
    assert server.metric("camserve_requests_total") - before <= 1  # the scrape before


@pytest.fixture
def explained(server: Server, browser: Browser, tmp_path: Path) -> Browser:
    """A page on which a picture was explained."""
    (tmp_path / "photo.jpg").write_bytes(make_upload(500, 300))
    browser.open(server.url)
    browser.wait_until("document.querySelectorAll('#method option').length > 10")
    browser.choose_file("#file", tmp_path / "photo.jpg")
    browser.wait_until(DRAWN)
    return browser


def choose_method(browser: Browser, name: str) -> None:
    before = browser.run("return document.querySelector('#heatmap').src")
    browser.run(
        "const choice = document.querySelector('#method'); choice.value = arguments[0];"
        " choice.dispatchEvent(new Event('change'))",
        name,
    )
    browser.wait_until(f"document.querySelector('#heatmap').src !== {before!r}")
    browser.wait_until(DRAWN)


def test_another_method_is_a_choice_away(explained: Browser) -> None:
    choose_method(explained, "guided_gradcam")
    assert "Adebayo" in explained.run("return document.querySelector('#warning').innerText")
    assert "method=guided_gradcam" in explained.run(
        "return document.querySelector('#curl').textContent"
    )
    assert explained.console() == []


def test_a_method_of_many_passes_tells_how_far_it_has_come(explained: Browser) -> None:
    explained.run(
        "const status = document.querySelector('#status'); window.told = [];"
        " new MutationObserver(() => told.push(status.textContent))"
        ".observe(status, { childList: true })"
    )
    choose_method(explained, "scorecam")
    told = explained.run("return told")
    assert any(text.endswith("50 %") for text in told), told
    assert told[-1].startswith("Heatmap of")
    assert explained.console() == []


def test_a_file_that_is_no_picture_is_refused_in_words(
    server: Server, browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    browser.open(server.url)
    browser.wait_until("!document.querySelector('#model').disabled")
    browser.choose_file("#file", tmp_path / "notes.txt")
    browser.wait_until("!document.querySelector('#problem').hidden")
    assert "JPEG" in browser.run("return document.querySelector('#problem').innerText")
