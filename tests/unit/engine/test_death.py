"""A real worker process that dies in the middle of a batch, and the client that goes on."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from app.engine.client import EngineClient
from app.errors import PoisonInput
from app.types import Job, JobResult
from tests.server import ROOT


@asynccontextmanager
async def reborn(client: EngineClient, folder: Path) -> AsyncIterator[None]:
    """A worker that is started again, at a new place, whenever it has ended."""
    born = asyncio.Event()

    async def live() -> None:
        for life in itertools.count():
            endpoint = str(folder / f"worker.{life}")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.unit.engine.dying_worker", endpoint),
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            try:
                assert process.stdout is not None
                assert await process.stdout.readline() == b"listening\n"
                client.use([endpoint])
                await client.heard(30)
                born.set()
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()

    keeper = asyncio.create_task(live())
    try:
        await born.wait()
        yield
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await client.close()


def test_a_picture_that_kills_two_workers_is_refused_and_those_beside_it_are_answered(
    tmp_path: Path,
) -> None:
    def job(value: int) -> Job:
        pixels = np.full((1, 1, 3), value, np.uint8)
        return Job(model="m", version="v", pixels=pixels, deadline=time.monotonic() + 60)

    async def scenario() -> list[JobResult | BaseException]:
        client = EngineClient()
        async with asyncio.timeout(60), reborn(client, tmp_path):
            return await asyncio.gather(
                *(client.submit(job(value)) for value in (1, 13, 2, 3)), return_exceptions=True
            )

    one, poison, two, three = asyncio.run(scenario())
    assert isinstance(poison, PoisonInput)
    for value, result in ((1, one), (2, two), (3, three)):
        assert isinstance(result, JobResult)
        assert result.logits.tolist() == [value, 1]  # run again, alone
