"""Machine code made by a real compiler, beside a real server."""

import base64
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.backbones.compiling import make_program
from app.backbones.model import Model
from app.types import Floats
from tests.pictures import make_upload
from tests.server import ROOT, Server, child_pids, command_line, serving, wait_for
from tests.unit.conftest import make_manifest

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


def resident_mb() -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1000


def compilers(server: Server) -> list[int]:
    (worker,) = server.children("worker")
    return [pid for pid in child_pids(worker) if b"child\0compiler\0" in command_line(pid)]


def compiling(folder: Path) -> AbstractContextManager[Server]:
    """A server with a cache of its own, and batches of one row: there is less to compile."""
    cache = {"TORCH_HOME": str(folder / "cache"), "APP_MAX_BATCH_SIZE": "1"}
    return serving(folder / "log", APP_COMPILE="on", **cache)


def test_a_server_answers_the_same_before_and_after_its_trunk_became_machine_code(
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
        assert settled(server) == state
        assert "compiles" not in server.log()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch 2.11 exports with them
def test_a_program_keeps_nothing_in_memory(tmp_path: Path) -> None:
    model = Model(make_manifest(), torch.device("cpu"))
    x = model.example(1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        program = make_program(model, x, tmp_path / "1.so")
        model.check_trunk("program", program, 1)
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(program, [x] * 100))
            held = resident_mb()
            list(threads.map(lambda _: program(x.clone()).sum().item(), range(4000)))
    finally:
        torch.set_num_threads(before)
    assert resident_mb() - held < 30  # 4,000 results are 66 MB, as many pictures 197


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


def test_a_server_that_must_compile_does_not_start_without_a_compiler() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "app", "serve", "--port", "0", "--compile", "on"],
        cwd=ROOT,
        env={**os.environ, "CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "C++ compiler" in ended.stderr
