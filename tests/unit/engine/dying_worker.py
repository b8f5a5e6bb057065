"""A worker process whose model ends it at the pictures that hold 13: ``dying_worker ENDPOINT``."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence

import numpy as np

from app.engine.batching import BatchQueue, Outcome, SlowRun
from app.engine.sharing import WholeDevice
from app.engine.worker import Worker
from app.metrics import Metrics
from app.types import Catalogue, Job, JobResult, ModelInfo

MODEL = ModelInfo(name="m", state="ready", version="v")
CATALOGUE = Catalogue(device="cpu", torch="0", models=(MODEL,), methods=())


def run(jobs: Sequence[Job]) -> list[Outcome]:
    values = [int(job.pixels[0, 0, 0]) for job in jobs]
    if 13 in values:
        os.kill(os.getpid(), signal.SIGKILL)
    numbers = [np.array([value, len(jobs)], np.float32) for value in values]
    return [JobResult(logits=row, scores=row) for row in numbers]


def run_slowly(_job: Job) -> SlowRun:
    raise NotImplementedError


if __name__ == "__main__":
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen()
    # It waits for company, so that the rows of a test share a batch.
    queue = BatchQueue(WholeDevice(max_rows=4), max_wait_s=0.5)
    worker = Worker(run, run_slowly, lambda: CATALOGUE, queue, Metrics(lambda _line: None))
    worker.start(listener)
    print("listening", flush=True)
    threading.Event().wait()
