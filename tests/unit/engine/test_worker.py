"""The worker's promise: every job it takes is settled, whatever happens."""

import socket
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Queue
from threading import Barrier, Event, Semaphore

import numpy as np
import pytest

from app.engine.batching import BatchQueue, Entry, Outcome, SlowRun
from app.engine.sharing import WholeDevice
from app.engine.wire import (
    Frame,
    Inbox,
    Message,
    pack,
    pack_job,
    unpack_error,
    unpack_result,
)
from app.engine.worker import Run, RunSlowly, Worker, execute
from app.errors import CamserveError, NonFiniteOutput
from app.metrics import Metrics
from app.types import Catalogue, Job, JobResult, Progress
from tests.server import wait_for

FOREVER = 1e12


def make_job(value: int = 0) -> Job:
    return Job(model="m", version="v", pixels=np.full((1, 1, 3), value, np.uint8), deadline=FOREVER)


def make_result(job: Job) -> JobResult:
    numbers = np.array([job.pixels[0, 0, 0]], np.float32)
    return JobResult(logits=numbers, scores=numbers)


def run_well(jobs: Sequence[Job]) -> list[Outcome]:
    return [make_result(job) for job in jobs]


def values(outcomes: list[Outcome]) -> list[float | str]:
    return [
        float(outcome.logits[0]) if isinstance(outcome, JobResult) else outcome.code
        for outcome in outcomes
    ]


def test_a_poison_row_fails_alone() -> None:
    def run(jobs: Sequence[Job]) -> list[Outcome]:
        if any(job.pixels[0, 0, 0] == 2 for job in jobs):
            raise RuntimeError("poison")
        return run_well(jobs)

    outcomes = execute(run, [make_job(value) for value in (1, 2, 3)])
    assert values(outcomes) == [1.0, "internal_error", 3.0]


def test_the_cause_of_a_failure_is_not_told_to_the_client() -> None:
    def run(_jobs: Sequence[Job]) -> list[Outcome]:
        raise RuntimeError("secret path")

    (outcome,) = execute(run, [make_job()])
    assert isinstance(outcome, CamserveError)
    assert "secret" not in outcome.detail


def test_an_error_of_ours_is_the_answer_for_all_rows() -> None:
    def run(_jobs: Sequence[Job]) -> list[Outcome]:
        raise NonFiniteOutput("no")

    assert values(execute(run, [make_job()] * 2)) == ["non_finite_output"] * 2


def test_a_wrong_number_of_outcomes_fails_every_row() -> None:
    outcomes = execute(lambda jobs: run_well(jobs)[:1], [make_job()] * 2)
    assert values(outcomes) == ["internal_error"] * 2


class Client:
    """The other end of a worker's socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))
        self._inbox = Inbox()
        self._messages = deque[Message]()

    def send(self, frames: list[Frame]) -> None:
        self._socket.sendall(b"".join(frames))

    def receive(self, *kinds: str) -> Message:
        """The next message of these kinds."""
        while True:
            while not self._messages:
                self._messages += self._inbox.read(self._socket)
            message = self._messages.popleft()
            if message[0]["kind"] in kinds:
                return message

    def receive_next(self) -> Message:
        """The next message about a job."""
        return self.receive("progress", "result", "error")

    def close(self) -> None:
        self._socket.close()


class WatchedQueue(BatchQueue):
    """Lets a test wait until a job has been read from its connection, and all before it."""

    def __init__(self) -> None:
        super().__init__(WholeDevice(max_rows=4))
        self.arrivals: Queue[int] = Queue()

    def put(self, entry: Entry) -> None:
        super().put(entry)
        self.arrivals.put(entry.job_id)

    def await_arrival(self, job_id: int) -> None:
        while self.arrivals.get(timeout=30) != job_id:
            pass


class Start:
    """Starts ``worker`` around a ``run``; a call returns a connected client."""

    worker: Worker
    run_slowly: RunSlowly

    def __init__(self, path: Path) -> None:
        self._path = path
        self.run_slowly = lambda job: pytest.fail(f"a slow job: {job}")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.queue = WatchedQueue()
        self._clients: list[Client] = []

    def __call__(self, run: Run, drivers: int = 1) -> Client:
        catalogue = Catalogue(device="cpu", torch="0", models=(), methods=())
        self.worker = Worker(
            run,
            self.run_slowly,
            lambda: catalogue,
            self.queue,
            Metrics(lambda _line: None),
            drivers,
        )
        self.worker.start(self.listener)
        self._clients.append(Client(self._path))
        return self._clients[-1]

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.queue.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    starter = Start(tmp_path / "worker")
    yield starter
    starter.close()


def test_a_worker_says_hello_with_its_catalogue(start: Start) -> None:
    _, frames = start(run_well).receive("catalogue")
    assert Catalogue.model_validate_json(frames[0]).device == "cpu"


def test_a_worker_answers_each_job_under_its_own_id(start: Start) -> None:
    client = start(run_well)
    for job_id in (5, 6, 7):
        client.send(pack_job(job_id, make_job(job_id)))
    for _ in range(3):
        header, frames = client.receive("result")
        assert unpack_result(header, frames).logits[0] == header["id"]


def test_a_worker_tells_how_long_a_job_waited(start: Start) -> None:
    client = start(run_well)
    client.send(pack_job(0, make_job()))
    assert client.receive("result")[0]["timings"]["queue"] >= 0


def test_a_failing_job_is_answered_and_the_next_one_served(start: Start) -> None:
    def run(jobs: Sequence[Job]) -> list[Outcome]:
        if jobs[0].pixels[0, 0, 0] == 1:
            raise RuntimeError
        return run_well(jobs)

    client = start(run)
    client.send(pack_job(0, make_job(1)))
    assert unpack_error(client.receive("error")[0]).code == "internal_error"
    client.send(pack_job(1, make_job(2)))
    assert client.receive("result")[0]["id"] == 1


def test_a_worker_says_which_job_has_the_device_to_itself(start: Start) -> None:
    client = start(run_well)
    client.send(pack_job(3, make_job()))
    assert client.receive("alone", "result")[0] == {"kind": "alone", "id": 3, "frames": []}


def test_a_slow_job_is_not_thought_alone_while_another_one_is(start: Start, tmp_path: Path) -> None:
    step = Semaphore(0)

    def run_slowly(job: Job) -> SlowRun:
        for done in range(2):
            assert step.acquire(timeout=30)
            yield Progress(done, 2)
        return make_result(job)

    start.run_slowly = run_slowly
    client = start(run_well)
    other = Client(tmp_path / "worker")
    client.send(pack_job(1, replace(make_job(), slow=True)))
    assert client.receive("alone")[0]["id"] == 1
    other.send(pack_job(2, make_job()))
    start.queue.await_arrival(2)
    step.release()
    assert other.receive("alone")[0]["id"] == 2
    assert client.receive("alone")[0]["id"] is None
    step.release()
    assert client.receive("alone")[0]["id"] == 1
    client.receive("result")
    other.close()


def test_a_worker_knows_that_its_device_is_stuck(start: Start) -> None:
    running, go_on = Event(), Event()

    def run(jobs: Sequence[Job]) -> list[Outcome]:
        running.set()
        go_on.wait(30)
        return run_well(jobs)

    client = start(run)
    assert not start.worker.is_stuck(0)
    client.send(pack_job(0, make_job()))
    assert running.wait(30)
    assert start.worker.is_stuck(0)
    assert not start.worker.is_stuck(3600)
    go_on.set()
    client.receive("result")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_no_longer_reads_is_stuck(start: Start) -> None:
    start(run_well)
    assert not start.worker.is_stuck(3600)
    start.listener.shutdown(socket.SHUT_RDWR)  # an error at its next look
    wait_for(lambda: start.worker.is_stuck(3600))
    start.listener.close()


def test_two_drivers_have_a_batch_each_in_progress(start: Start) -> None:
    together = Barrier(2, timeout=30)

    def run(jobs: Sequence[Job]) -> list[Outcome]:
        together.wait()
        return run_well(jobs)

    client = start(run, drivers=2)
    client.send(pack_job(0, make_job(0)))
    assert client.receive("alone")[0]["id"] == 0
    client.send(pack_job(1, make_job(1)))
    assert client.receive("alone")[0]["id"] is None
    assert {client.receive("result")[0]["id"] for _ in range(2)} == {0, 1}


def test_one_driver_that_is_stuck_is_enough(start: Start) -> None:
    running, go_on = Event(), Event()

    def run(jobs: Sequence[Job]) -> list[Outcome]:
        if jobs[0].pixels[0, 0, 0] == 1:
            running.set()
            go_on.wait(30)
        return run_well(jobs)

    client = start(run, drivers=2)
    client.send(pack_job(1, make_job(1)))
    assert running.wait(30)
    client.send(pack_job(2, make_job(2)))
    assert client.receive("result")[0]["id"] == 2
    assert start.worker.is_stuck(0)
    go_on.set()
    client.receive("result")


def test_a_slow_job_tells_of_its_steps_and_lets_fast_jobs_pass(start: Start) -> None:
    go_on = Event()

    def run_slowly(job: Job) -> SlowRun:
        for done in range(3):
            go_on.wait(30)
            yield Progress(done, 3)
        return make_result(job)

    start.run_slowly = run_slowly
    client = start(run_well)
    client.send(pack_job(1, replace(make_job(5), slow=True)))
    client.send(pack_job(2, make_job(6)))
    start.queue.await_arrival(2)
    go_on.set()
    told = [client.receive_next() for _ in range(5)]
    assert [header["kind"] for header, _ in told].index("result") < 4, "the fast one is in between"
    progress = [(h["done"], h["total"]) for h, _ in told if h["kind"] == "progress"]
    assert progress == [(0, 3), (1, 3), (2, 3)]
    assert [h["id"] for h, _ in told if h["kind"] == "result"] == [2, 1]


def test_a_slow_job_that_fails_is_answered(start: Start) -> None:
    def run_slowly(job: Job) -> SlowRun:
        yield Progress(0, 3)
        if job.pixels[0, 0, 0] == 1:
            raise NonFiniteOutput("ours")
        raise RuntimeError("secret")

    start.run_slowly = run_slowly
    client = start(run_well)
    for value, code in ((1, "non_finite_output"), (2, "internal_error")):
        client.send(pack_job(value, replace(make_job(value), slow=True)))
        error = unpack_error(client.receive("error")[0])
        assert error.code == code
        assert "secret" not in error.detail


def test_a_cancelled_job_is_not_run_and_not_answered(start: Start) -> None:
    first_runs, go_on, seen = Event(), Event(), list[int]()

    def run(jobs: Sequence[Job]) -> list[Outcome]:
        seen.extend(int(job.pixels[0, 0, 0]) for job in jobs)
        first_runs.set()
        go_on.wait(30)
        return run_well(jobs)

    client = start(run)
    client.send(pack_job(1, make_job(1)))
    assert first_runs.wait(30)
    client.send(pack_job(2, make_job(2)))
    client.send(pack({"kind": "cancel", "id": 2}))
    client.send(pack_job(3, make_job(3)))
    start.queue.await_arrival(3)  # the connection is read in order: 2 is cancelled by then
    go_on.set()
    assert [client.receive("result")[0]["id"] for _ in range(2)] == [1, 3]
    assert seen == [1, 3]


def test_jobs_of_a_client_that_hung_up_hurt_nobody(start: Start, tmp_path: Path) -> None:
    client = start(run_well)
    other = Client(tmp_path / "worker")
    other.send(pack_job(0, make_job()))
    other.close()
    client.send(pack_job(1, make_job(1)))
    assert client.receive("result")[0]["id"] == 1


def test_a_line_that_is_not_understood_is_cut_and_the_others_are_served(
    start: Start, tmp_path: Path
) -> None:
    client = start(run_well)
    other = Client(tmp_path / "worker")
    other.send(pack({"kind": "job", "id": 0}))
    with pytest.raises(EOFError):
        other.receive("result")
    other.close()
    client.send(pack_job(1, make_job(1)))
    assert client.receive("result")[0]["id"] == 1
