"""Thousands of requests with every method: does anything grow?

Run as: .venv/bin/python scripts/soak.py [--requests 10000]

One server with ``shapes``; four clients, all methods in turn, a budget of 32 passes, one to three
classes. Printed is the memory of worker and http process after a tenth of the requests, and at the
end.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.server import Server, serving  # noqa: E402 - the tests' own server

CLIENTS = 4
SAMPLES = sorted((ROOT / "models" / "samples").glob("*.jpg"))


def main() -> None:
    """Ask, and print what grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    arguments = parser.parse_args()
    environment = {"APP_MODELS_DIR": str(ROOT / "models"), "APP_MODELS": "shapes"}
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "log", **environment) as server,
    ):
        server.wait_until_ready()
        methods = server.client.get("/api/v1/models/shapes").json()["methods"]
        print(f"{len(methods)} methods: {', '.join(methods)}")
        warm_up = arguments.requests // 10
        ask(server, methods, warm_up)
        before = memory(server)
        ask(server, methods, arguments.requests - warm_up)
        after = memory(server)
        for role in before:
            print(f"{role:8} {before[role]:.0f} MB after {warm_up},"
                  f" {after[role]:.0f} MB after {arguments.requests}:"
                  f" {after[role] - before[role]:+.0f} MB")  # fmt: skip


def ask(server: Server, methods: list[str], requests: int) -> None:
    """Every answer must be a good one."""
    numbers = count()
    uploads = [file.read_bytes() for file in SAMPLES]

    def client(share: int) -> None:
        with httpx.Client(base_url=server.url, timeout=120) as session:
            for _ in range(share):
                number = next(numbers)
                options: dict[str, str | int] = {
                    "method": methods[number % len(methods)],
                    "classes": f"top{1 + number % 3}",
                    "budget": 32,
                    "seed": number,
                }
                upload = uploads[number % len(uploads)]
                response = session.post("/api/v1/explain", content=upload, params=options)
                response.raise_for_status()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, [requests // CLIENTS] * CLIENTS))


def memory(server: Server) -> dict[str, float]:
    """Megabytes resident."""
    pids = {"worker": server.children("worker")[0], "http": server.http_process()}
    return {role: _resident(pid) for role, pid in pids.items()}


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1e3


if __name__ == "__main__":
    main()
