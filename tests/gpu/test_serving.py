"""A real server on a GPU."""

import os
import signal
from pathlib import Path

import httpx

from tests.pictures import make_upload
from tests.server import serving, wait_for

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "APP_MODELS_DIR": str(ROOT / "models"),
    "APP_MODELS": "shapes",
    "APP_DEVICES": "auto",
    "APP_HTTP_PROCESSES": "2",
}


def test_a_server_explains_on_the_gpu_and_survives_its_workers_death(tmp_path: Path) -> None:
    with serving(tmp_path / "log", **SETTINGS) as server:
        wait_for(server.is_ready)
        url = f"{server.url}/api/v1/explain?method=gradcam"
        first = httpx.post(url, content=make_upload(), timeout=60)
        assert first.status_code == 200, first.text
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: set(server.children("worker")) - {worker})
        wait_for(server.is_ready)
        second = httpx.post(url, content=make_upload(), timeout=60)
        assert second.status_code == 200, second.text
        answers = [answer.json()["predictions"][0] for answer in (first, second)]
        assert answers[0]["label"] == answers[1]["label"]
        assert abs(answers[0]["score"] - answers[1]["score"]) < 1e-5
