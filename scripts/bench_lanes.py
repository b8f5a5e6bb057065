"""How much a method of many passes in progress slows the fast ones beside it.

Run as: .venv/bin/python scripts/bench_lanes.py [--requests 2000] [--runs 3]

One server with MobileNetV3-small (random weights), eight clients that ask for Grad-CAM in a closed
loop; now with, now without a client that asks for Score-CAM of all channels, again and again.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.pictures import make_upload  # noqa: E402 - the tests' own server and pictures
from tests.server import Server, serving  # noqa: E402

MODEL = """
name = "mobilenet"
family = "torchvision"
architecture = "mobilenet_v3_small"
weights = "random"
"""
CLIENTS = 8


def main() -> None:
    """Measure, alternating, and print the p99 of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="in each run")
    parser.add_argument("--runs", type=int, default=3, help="of each kind, alternating")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mobilenet.toml").write_text(MODEL)
        environment = {"APP_MODELS_DIR": folder, "APP_MODELS": "mobilenet"}
        with serving(Path(folder) / "log", **environment) as server:
            server.wait_until_ready()
            p99(server, 200)
            alone, beside = [], []
            for _ in range(arguments.runs):
                alone.append(p99(server, arguments.requests))
                with scorecam_in_progress(server) as done:
                    beside.append(p99(server, arguments.requests))
                print(f"p99 alone {alone[-1]:.1f} ms, beside Score-CAM {beside[-1]:.1f} ms,"
                      f" {len(done)} of which were answered")  # fmt: skip
    ratio = statistics.median(beside) / statistics.median(alone)
    print(f"median p99 beside / alone: {ratio:.2f}")


def p99(server: Server, requests: int) -> float:
    """Milliseconds."""
    upload = make_upload(300, 200)
    seconds: list[float] = []

    def client(count: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as session:
            for _ in range(count):
                started = time.perf_counter()
                session.post("/api/v1/explain", content=upload).raise_for_status()
                seconds.append(time.perf_counter() - started)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, [requests // CLIENTS] * CLIENTS))
    return float(np.quantile(seconds, 0.99)) * 1e3


@contextmanager
def scorecam_in_progress(server: Server) -> Iterator[list[int]]:
    """Always one such request; the list fills with their statuses."""
    done: list[int] = []
    over = threading.Event()

    def client() -> None:
        with httpx.Client(base_url=server.url, timeout=200) as session:
            while not over.is_set():
                response = session.post("/api/v1/explain?method=scorecam", content=make_upload())
                done.append(response.status_code)

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
