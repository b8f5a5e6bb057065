"""How many jobs a second pass through a worker whose device takes next to no time.

Run as: .venv/bin/python scripts/bench_worker.py [--processes 1,4,12]

What is left is the worker's Python: sockets, queue, and turns at the interpreter's lock. Its device
sleeps and gives that lock away as often as a GPU's batch does.
"""

import argparse
import multiprocessing
import selectors
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from app.engine.batching import BatchQueue, Outcome, SlowRun
from app.engine.sharing import WholeDevice
from app.engine.wire import Inbox, pack_job, widen
from app.engine.worker import Worker
from app.metrics import Metrics
from app.types import Catalogue, ClassMap, Job, JobResult

ROWS = 16  # in a batch, as by default
LAUNCHES = 25  # of a batch, each of which gives the interpreter's lock away
WAITS_S = (0.0006, 0.0003)  # for scores, and for maps
JOB = Job(
    model="m", version="v", pixels=np.zeros((224, 224, 3), np.uint8),
    deadline=time.monotonic() + 1e6, classes=("top1",), methods=("gradcam",),
)  # fmt: skip
RESULT = JobResult(
    logits=np.zeros(1000, np.float32),
    scores=np.zeros(1000, np.float32),
    maps=(ClassMap(index=0, method="gradcam", layer="l", values=np.zeros((7, 7), np.float32)),),
    timings={"forward": 1.0, "backward": 1.0},
)


def run(jobs: Sequence[Job]) -> list[Outcome]:
    """A batch on a GPU, as the processor sees it."""
    for _ in range(LAUNCHES):
        time.sleep(0)
    for seconds in WAITS_S:
        time.sleep(seconds)
    return [RESULT] * len(jobs)


def run_slowly(_job: Job) -> SlowRun:
    """No slow jobs come."""
    raise NotImplementedError


def serve(path: str) -> None:
    """The worker process."""
    sharing = WholeDevice(ROWS)
    catalogue = Catalogue(device="none", torch="none", models=(), methods=())
    queue, metrics = BatchQueue(sharing), Metrics(lambda _line: None)
    served = Worker(run, run_slowly, lambda: catalogue, queue, metrics, sharing.drivers)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{path}.new")
    listener.listen()
    Path(f"{path}.new").rename(path)  # who finds it can connect
    served.start(listener)
    threading.Event().wait()


@contextmanager
def worker() -> Iterator[str]:
    """One that runs, and where it listens."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "worker"
        child = multiprocessing.get_context("spawn").Process(target=serve, args=(str(path),))
        child.start()
        try:
            while not path.is_socket():
                time.sleep(0.05)
            yield str(path)
        finally:
            child.kill()
            child.join()


class HttpProcess:
    """What a worker sees of one: a connection that has so many jobs in flight."""

    def __init__(self, path: str, in_flight: int) -> None:
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        widen(self.stream)
        self._inbox = Inbox()
        for _ in range(in_flight):
            self._ask()

    def take(self) -> int:
        """The number of results that have come; each makes place for another job."""
        messages = self._inbox.read(self.stream)
        results = [header for header, _ in messages if header["kind"] == "result"]
        for _ in results:
            self._ask()
        return len(results)

    def _ask(self) -> None:
        self.stream.sendmsg(pack_job(0, JOB))


def rate(path: str, count: int, in_flight: int, seconds: float) -> float:
    """Results a second, with so many http processes."""
    selector = selectors.DefaultSelector()
    processes = [HttpProcess(path, in_flight) for _ in range(count)]
    for process in processes:
        selector.register(process.stream, selectors.EVENT_READ, process)
    begin = time.monotonic() + seconds / 4
    end, done = begin + seconds, 0
    while (now := time.monotonic()) < end:
        for key, _ in selector.select():
            results = key.data.take()
            done += results if now >= begin else 0
    for process in processes:
        process.stream.close()
    return done / seconds


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", default="1,4,12", help="http processes, with commas between")
    parser.add_argument("--clients", type=int, default=96, help="jobs in flight, all together")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    counts = [int(count) for count in args.processes.split(",")]
    with worker() as path:
        found = [
            [rate(path, count, args.clients // count, args.seconds) for count in counts]
            for _ in range(args.rounds)
        ]
    for count, rates in zip(counts, zip(*found, strict=True), strict=True):
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        print(f"{count:3} http processes: {statistics.median(rates):.0f} jobs/s ({spread})")


if __name__ == "__main__":
    main()
