"""The engine without processes, for the command line: the same models and runner, in a thread."""

import asyncio
from collections.abc import Callable, Sequence

from app.engine.batching import Outcome
from app.engine.worker import execute
from app.types import Catalogue, Job, JobResult


class LocalEngine:
    """Runs jobs one by one.

    Args:
        run: runs a batch of jobs on the device.
        catalogue: what is served now.
    """

    def __init__(
        self, run: Callable[[Sequence[Job]], list[Outcome]], catalogue: Callable[[], Catalogue]
    ) -> None:
        self._run = run
        self._catalogue = catalogue

    def catalogues(self) -> list[Catalogue]:
        """What is served."""
        return [self._catalogue()]

    async def submit(self, job: Job) -> JobResult:
        """Run a job.

        Raises:
            CamserveError: as the job's outcome has it.
        """
        (outcome,) = await asyncio.to_thread(execute, self._run, [job])
        if isinstance(outcome, JobResult):
            return outcome
        raise outcome
