"""Show the figures of one server on this machine: start, restart after kill -9, memory.

Run as: .venv/bin/python scripts/figures.py

With the embedded models, then with a ResNet-50 from a local file of random weights: its worker
beside what PyTorch needs for batches of 16 alone, and an http process with 64 clients that upload
12 megapixels each.
"""

import hashlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from safetensors.torch import save_file
from torchvision import models

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.pictures import make_upload  # noqa: E402 - the tests' own server and pictures
from tests.server import Server, serving, wait_for  # noqa: E402

ROWS = 16  # of the largest batch, camserve's default
CLIENTS = 64
MANIFEST = """name = "resnet50"
family = "torchvision"
architecture = "resnet50"
weights = "resnet50.safetensors"
sha256 = "{sha256}"
"""
PLAIN = """
import sys, torch
from torchvision import models
model = models.resnet50().eval().requires_grad_(False).to(memory_format=torch.channels_last)
x = torch.rand({rows}, 3, 224, 224).to(memory_format=torch.channels_last)
for _ in range(3):
    model(x.requires_grad_({with_graph})).max(dim=1)
print(open("/proc/self/status").read())
"""


def main() -> None:
    """Start servers, disturb and load them, and print what was measured."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        embedded(Path(folder))
        resnet50(Path(folder))


def embedded(folder: Path) -> None:
    """Start, a peak, and two deaths."""
    shipped = {
        "APP_MODELS_DIR": str(ROOT / "models"),
        "APP_MODELS": "shapes,lesion,lesion-shortcut",
    }
    with serving(folder / "log", **shipped) as server:
        show_start(server, "embedded models")
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: post(server, make_upload(1600, 1200)), range(200)))
        show_mb("http process, peak after 200 uploads", memory_mb(server.http_process(), "VmHWM"))
        for role, pid in (
            ("http", server.http_process()),
            ("worker", server.children("worker")[0]),
        ):
            os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            seconds = seconds_until(lambda: post(server, make_upload()) == httpx.codes.OK, killed)
            show(f"kill -9 of the {role} process to the next answer", seconds)


def resnet50(folder: Path) -> None:
    """Start, and memory: a worker beside PyTorch alone, http processes with many uploads."""
    weights = folder / "resnet50.safetensors"
    save_file(models.resnet50().state_dict(), weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "resnet50.toml").write_text(MANIFEST.format(sha256=digest))
    settings = {"APP_MODELS_DIR": str(folder), "APP_MODELS": "resnet50"}
    for with_graph, told in ((False, "the forward alone"), (True, "with a graph to the input")):
        show_mb(f"PyTorch, peak with batches of {ROWS}, {told}", plain_mb(with_graph=with_graph))
    with serving(folder / "log", **settings) as server:
        show_start(server, "ResNet-50")
        show_worker(server, "as it is loaded")
    compiled = {"APP_COMPILE": "on", "TORCH_HOME": str(folder / "cache")}
    for told in ("compiled meanwhile", "compiled before"):
        with serving(folder / "log", **settings, **compiled) as server:
            wait_for(lambda: compiles(server) == "ready", 600)
            show_worker(server, told)
    upload = make_upload(4000, 3000)
    for output in ("heatmap", "overlay"):
        with serving(folder / "log", **settings) as server:
            server.wait_until_ready()
            load(server, output, upload, 4 * CLIENTS)
            peak = memory_mb(server.http_process(), "VmHWM")
            show_mb(f"http process, {CLIENTS} clients, 12 megapixels, {output}s, peak", peak)


def show_worker(server: Server, what: str) -> None:
    """What it holds with batches of the largest size."""
    load(server, "heatmap", make_upload(600, 400), 16 * ROWS)
    worker = server.children("worker")[0]
    for field, told in (("VmHWM", "peak"), ("VmRSS", "while it serves")):
        show_mb(f"worker, batches of {ROWS}, {what}, {told}", memory_mb(worker, field))


def compiles(server: Server) -> str:
    """What has become of it."""
    server.wait_until_ready()
    state: str = server.client.get("/api/v1/models/resnet50").json()["compile"]["state"]
    return state


def load(server: Server, output: str, upload: bytes, count: int) -> None:
    """Many clients, so many requests in all."""
    path = f"/api/v1/explain?output={output}"
    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = set(pool.map(lambda _: post(server, upload, path), range(count)))
    if statuses != {httpx.codes.OK}:
        raise RuntimeError(f"not every request was answered: {statuses}")


def plain_mb(*, with_graph: bool) -> float:
    """The most that a process holds that runs torchvision's model and nothing else."""
    code = PLAIN.format(rows=ROWS, with_graph=with_graph)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return megabytes(done.stdout, "VmHWM")


def show_start(server: Server, what: str) -> None:
    began = server.started
    show(f"start to /livez, {what}", seconds_until(lambda: answers(server, "/livez"), began))
    show(f"start to /readyz 200, {what}", seconds_until(server.is_ready, began))


def show(what: str, seconds: float) -> None:
    print(f"{what:60} {seconds:8.2f} s", flush=True)


def show_mb(what: str, megabytes: float) -> None:
    print(f"{what:60} {megabytes:8.0f} MB", flush=True)


def seconds_until(condition: Callable[[], bool], began: float) -> float:
    wait_for(condition)
    return time.monotonic() - began


def answers(server: Server, path: str) -> bool:
    try:
        return server.client.get(path).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def post(server: Server, upload: bytes, path: str = "/api/v1/explain") -> int:
    try:
        return httpx.post(f"{server.url}{path}", content=upload, timeout=120).status_code
    except httpx.TransportError:
        return 0


def memory_mb(pid: int, field: str) -> float:
    return megabytes(Path(f"/proc/{pid}/status").read_text(), field)


def megabytes(status: str, field: str) -> float:
    """Of a line of /proc/PID/status."""
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    main()
