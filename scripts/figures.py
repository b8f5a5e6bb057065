"""Show the figures of one server on this machine: start, restart after kill -9, memory.

Run as: .venv/bin/python scripts/figures.py
"""

import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.pictures import make_upload  # noqa: E402 - the tests' own server and pictures
from tests.server import Server, serving, wait_for  # noqa: E402


def main() -> None:
    """Start a server with the embedded models, disturb it, and print what was measured."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    shipped = {
        "APP_MODELS_DIR": str(ROOT / "models"),
        "APP_MODELS": "shapes,lesion,lesion-shortcut",
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "log", **shipped) as server,
    ):
        began = server.started
        show("start to /livez", seconds_until(lambda: answers(server, "/livez"), began))
        show("start to /readyz 200", seconds_until(server.is_ready, began))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: post(server, make_upload(1600, 1200)), range(200)))
        print(f"{'http process, peak memory after 200 uploads':50} {peak_mb(server):8.0f} MB")
        for role, pid in (
            ("http", server.http_process()),
            ("worker", server.children("worker")[0]),
        ):
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            seconds = seconds_until(lambda: post(server, make_upload()) == httpx.codes.OK, killed)
            show(f"kill -9 of the {role} process to the next answer", seconds)


def show(what: str, seconds: float) -> None:
    print(f"{what:50} {seconds:8.2f} s")


def seconds_until(condition: Callable[[], bool], began: float) -> float:
    wait_for(condition)
    return time.monotonic() - began


def answers(server: Server, path: str) -> bool:
    try:
        return server.client.get(path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def post(server: Server, upload: bytes) -> int:
    try:
        return httpx.post(f"{server.url}/api/v1/explain", content=upload, timeout=60).status_code
    except httpx.TransportError:
        return 0


def peak_mb(server: Server) -> float:
    status = Path(f"/proc/{server.http_process()}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    main()
