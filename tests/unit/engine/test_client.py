"""The http side of the engine, against workers that the tests script."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from app.engine.client import EngineClient
from app.engine.wire import (
    Frame,
    Message,
    pack,
    pack_alone,
    pack_error,
    pack_progress,
    pack_result,
    receive,
)
from app.errors import (
    CamserveError,
    ModelReplaced,
    NonFiniteOutput,
    NoWorker,
    PoisonInput,
    WorkerLost,
)
from app.types import Catalogue, Job, JobResult, ModelInfo, Progress

PIXELS = np.zeros((1, 1, 3), np.uint8)


def make_job(seconds: float = 30, model: str = "m", version: str = "v") -> Job:
    deadline = time.monotonic() + seconds
    return Job(model=model, version=version, pixels=PIXELS, deadline=deadline)


def make_result(value: float = 0) -> JobResult:
    numbers = np.array([value], np.float32)
    return JobResult(logits=numbers, scores=numbers)


class FakeWorker:
    """One life of a worker, whose answers the test decides."""

    def __init__(self, path: Path) -> None:
        self.endpoint = str(path)
        self.jobs: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self, *, state: str = "ready", version: str = "v") -> "FakeWorker":
        model = ModelInfo.model_validate({"name": "m", "state": state, "version": version})
        catalogue = Catalogue(device="cpu", torch="0", models=(model,), methods=())
        hello = pack({"kind": "catalogue"}, [catalogue.model_dump_json().encode()])

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writer = writer
            self.send(hello)
            try:
                while True:
                    await self.jobs.put(await receive(reader))
            except (asyncio.IncompleteReadError, ConnectionResetError):
                writer.close()

        self._server = await asyncio.start_unix_server(serve, self.endpoint)
        return self

    def send(self, frames: list[Frame]) -> None:
        self._writer.write(b"".join(frames))

    async def next_job(self) -> int:
        header, _ = await asyncio.wait_for(self.jobs.get(), 30)
        assert header["kind"] == "job"
        return int(header["id"])

    async def answer(self, value: float = 0) -> None:
        self.send(pack_result(await self.next_job(), make_result(value)))

    def say_alone(self, job_id: int) -> None:
        self.send(pack_alone(job_id))

    def hang_up(self) -> None:
        self._writer.close()

    async def die(self) -> None:
        self._server.close()
        if not self._writer.is_closing():  # close() sends what is still buffered
            self._writer.close()
        await self._writer.wait_closed()


Scenario = Callable[[EngineClient, Callable[..., Awaitable[FakeWorker]]], Awaitable[None]]


def play(scenario: Scenario, tmp_path: Path) -> None:
    """Run a scenario with a client, and a way to start workers that it uses at once."""

    async def run() -> None:
        client = EngineClient()
        lives: list[FakeWorker] = []

        async def start(state: str = "ready", version: str = "v") -> FakeWorker:
            worker = FakeWorker(tmp_path / f"w{len(lives)}")
            await worker.start(state=state, version=version)
            lives.append(worker)
            client.use([worker.endpoint])
            await client.heard(30)
            return worker

        async with asyncio.timeout(60):
            await scenario(client, start)
        await client.close()
        for life in lives:
            await life.die()

    asyncio.run(run())


def test_a_job_is_answered_by_the_worker_that_has_its_model(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        await start(state="loading")
        worker = await start()
        task = asyncio.create_task(client.submit(make_job()))
        await worker.answer(7)
        assert (await task).logits[0] == 7

    play(scenario, tmp_path)


def test_jobs_go_to_the_worker_with_the_least_to_do(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        workers = [await start(), await start()]
        tasks = [asyncio.create_task(client.submit(make_job())) for _ in range(4)]
        for worker in workers * 2:
            await worker.answer()
        await asyncio.gather(*tasks)

    play(scenario, tmp_path)


def test_an_error_of_the_worker_is_raised_as_itself(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        task = asyncio.create_task(client.submit(make_job()))
        worker.send(pack_error(await worker.next_job(), NonFiniteOutput("nan")))
        with pytest.raises(NonFiniteOutput):
            await task

    play(scenario, tmp_path)


@pytest.mark.parametrize(
    ("wish", "error"), [({"model": "other"}, NoWorker), ({"version": "old"}, ModelReplaced)]
)
def test_without_a_worker_for_model_and_version_there_is_no_answer(
    wish: dict[str, str], error: type[CamserveError], tmp_path: Path
) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        await start()
        with pytest.raises(error):
            await client.submit(make_job(30, **wish))

    play(scenario, tmp_path)


def test_a_job_whose_worker_died_learns_that_the_next_one_has_another_version(
    tmp_path: Path,
) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        task = asyncio.create_task(client.submit(make_job()))
        await worker.next_job()
        await worker.die()
        await start(version="w")
        with pytest.raises(ModelReplaced):
            await task

    play(scenario, tmp_path)


def test_jobs_in_flight_are_counted(tmp_path: Path) -> None:
    counts: list[int] = []

    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        client._on_change = counts.append
        worker = await start()
        tasks = [asyncio.create_task(client.submit(make_job())) for _ in range(2)]
        for _ in tasks:
            await worker.answer()
        await asyncio.gather(*tasks)

    play(scenario, tmp_path)
    assert (max(counts), counts[-1]) == (2, 0)


def test_a_job_that_is_given_up_is_cancelled_at_its_worker(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        task = asyncio.create_task(client.submit(make_job()))
        job_id = await worker.next_job()
        task.cancel()
        header, _ = await asyncio.wait_for(worker.jobs.get(), 30)
        assert (header["kind"], header["id"]) == ("cancel", job_id)

    play(scenario, tmp_path)


def test_progress_is_passed_on_to_who_asked_for_it(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        told: list[Progress] = []
        tasks = [
            asyncio.create_task(client.submit(make_job(), told.append)),
            asyncio.create_task(client.submit(make_job())),
        ]
        for job_id in [await worker.next_job() for _ in tasks]:
            worker.send(pack_progress(job_id, Progress(3, 9)))
            worker.send(pack_result(job_id, make_result()))
        await asyncio.gather(*tasks)
        assert told == [Progress(3, 9)]

    play(scenario, tmp_path)


def test_an_answer_to_a_cancelled_job_is_ignored(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        task = asyncio.create_task(client.submit(make_job()))
        job_id = await worker.next_job()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        worker.send(pack_result(job_id, make_result()))
        await asyncio.wait_for(worker.jobs.get(), 30)  # the cancel
        later = asyncio.create_task(client.submit(make_job()))
        await worker.answer(1)
        assert (await later).logits[0] == 1

    play(scenario, tmp_path)


def test_jobs_of_a_dead_worker_are_run_again_alone_when_another_is_ready(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        tasks = [asyncio.create_task(client.submit(make_job())) for _ in range(3)]
        for _ in tasks:
            await worker.next_job()
        await worker.die()
        second = await start()
        for _ in tasks:
            header, _ = await asyncio.wait_for(second.jobs.get(), 30)
            assert header["alone"] is True
            second.send(pack_result(header["id"], make_result(2)))
        assert [result.logits[0] for result in await asyncio.gather(*tasks)] == [2, 2, 2]

    play(scenario, tmp_path)


def test_a_picture_that_was_alone_at_two_deaths_is_refused(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        first = await start()
        task = asyncio.create_task(client.submit(make_job()))
        first.say_alone(await first.next_job())
        await first.die()
        second = await start()
        second.say_alone(await second.next_job())
        await second.die()
        with pytest.raises(PoisonInput):
            await task

    play(scenario, tmp_path)


def test_a_picture_that_only_waited_is_not_blamed_for_the_deaths(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        task = None
        for _ in range(3):
            worker = await start()
            task = task or asyncio.create_task(client.submit(make_job()))
            await worker.next_job()
            await worker.die()
        last = await start()
        await last.answer(5)
        assert task is not None
        assert (await task).logits[0] == 5

    play(scenario, tmp_path)


def test_a_service_whose_workers_end_again_and_again_says_so(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        task = None
        for _ in range(4):
            worker = await start()
            task = task or asyncio.create_task(client.submit(make_job()))
            await worker.next_job()
            await worker.die()
        await start()
        assert task is not None
        with pytest.raises(WorkerLost):
            await task

    play(scenario, tmp_path)


def test_where_no_worker_comes_back_the_answer_is_503_before_the_deadline(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        task = asyncio.create_task(client.submit(make_job(seconds=0.5)))
        await worker.next_job()
        await worker.die()
        with pytest.raises(WorkerLost):
            await task

    play(scenario, tmp_path)


def test_an_endpoint_that_nobody_listens_at_is_tried_again(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        client.use([str(tmp_path / "late")])
        await client.heard(0.01)
        assert client.catalogues() == []
        await FakeWorker(tmp_path / "late").start()
        await client.heard(30)
        assert len(client.catalogues()) == 1


def test_a_line_that_was_cut_is_joined_again_while_the_worker_lives(tmp_path: Path) -> None:
    async def scenario(client: EngineClient, start: Callable[..., Awaitable[FakeWorker]]) -> None:
        worker = await start()
        for cut in (worker.hang_up, lambda: worker.send([b"\0\0\0\1?"])):
            task = asyncio.create_task(client.submit(make_job()))
            await worker.next_job()
            cut()
            header, _ = await asyncio.wait_for(worker.jobs.get(), 30)  # over the new line
            worker.send(pack_result(header["id"], make_result(3)))
            assert (await task).logits[0] == 3

    play(scenario, tmp_path)
