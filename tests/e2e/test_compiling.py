"""Trunks that OpenVINO compiles beside a real server."""

import base64
import os
import re
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.types import Floats
from tests.pictures import make_upload
from tests.server import ROOT, Server, child_pids, command_line, serving, wait_for

pytestmark = pytest.mark.e2e


def compile_state(server: Server) -> dict[str, str]:
    found: dict[str, str] = server.client.get("/api/v1/models/tiny").json()["compile"]
    return found


def settled(server: Server) -> dict[str, str]:
    def look() -> dict[str, str] | None:
        state = compile_state(server)
        return None if state["state"] == "running" else state

    return wait_for(look, 300)


def explain(server: Server) -> dict[str, Any]:
    answer = server.client.post("/api/v1/explain?output=raw&seed=1", content=make_upload())
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def told(answer: dict[str, Any], part: str) -> Floats:
    return np.array([prediction[part] for prediction in answer["predictions"]], np.float32)


def grid(answer: dict[str, Any]) -> Floats:
    return np.frombuffer(base64.b64decode(answer["explanations"][0]["raw"]["base64"]), "<f4")


def compilers(server: Server) -> list[int]:
    (worker,) = server.children("worker")
    return [pid for pid in child_pids(worker) if b"child\0compiler\0" in command_line(pid)]


def compiling(folder: Path) -> AbstractContextManager[Server]:
    """A server with a cache of its own, and batches of one row: there is less to compare."""
    cache = {"TORCH_HOME": str(folder / "cache"), "APP_MAX_BATCH_SIZE": "1"}
    return serving(folder / "log", APP_COMPILE="on", **cache)


def test_a_server_answers_the_same_before_and_after_its_trunk_is_compiled(
    tmp_path: Path,
) -> None:
    with compiling(tmp_path) as server:
        server.wait_until_ready()
        before = explain(server)
        assert compile_state(server)["state"] == "running"
        state = settled(server)
        assert state["state"] == "ready", (state, server.log())
        after = explain(server)
        for part in ("logit", "score"):
            np.testing.assert_allclose(told(after, part), told(before, part), rtol=1e-4, atol=1e-5)
        largest = np.abs(grid(before)).max()
        np.testing.assert_allclose(grid(after), grid(before), atol=1e-4 * largest)
        assert compilers(server) == []
    with compiling(tmp_path) as server:  # finds what was made
        server.wait_until_ready()
        assert compile_state(server) == state  # from the first picture on
        assert "compiles" not in server.log()
        np.testing.assert_allclose(told(explain(server), "logit"), told(after, "logit"), rtol=1e-5)


def test_a_compiler_that_is_killed_costs_nothing_and_ends_with_its_worker(tmp_path: Path) -> None:
    with compiling(tmp_path) as server:
        server.wait_until_ready()
        (compiler,) = wait_for(lambda: compilers(server))
        (worker,) = server.children("worker")
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: not command_line(compiler))
        wait_for(lambda: server.is_ready() and server.children("worker") != [worker])
        (compiler,) = wait_for(lambda: compilers(server))
        os.kill(compiler, signal.SIGKILL)
        state = settled(server)
        assert state["state"] == "off"
        assert "killed" in state["detail"]
        explain(server)
    left = [p.name for p in (tmp_path / "cache/hub/compiled").iterdir()]
    assert all(re.fullmatch(r"[0-9a-f]{32}\.lock", name) for name in left)


def test_a_server_that_must_compile_does_not_start_without_openvino() -> None:
    without = (
        "import importlib.util as util, sys; find = util.find_spec;"
        "util.find_spec = lambda name, *more: None if name == 'openvino' else find(name, *more);"
        "from app.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", without, "serve", "--port", "0", "--compile", "on"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "OpenVINO is not installed" in ended.stderr
