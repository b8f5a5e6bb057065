"""The engine without processes, for the command line: the same models and runner, in a thread."""

import asyncio
from collections.abc import Callable

from app.engine.batching import Entry, Outcome
from app.engine.worker import Run, RunSlowly, advance, execute
from app.types import Catalogue, Job, JobResult, Progress


class LocalEngine:
    """Runs jobs one by one.

    Args:
        run: runs a batch of jobs on the device.
        run_slowly: runs a job of many passes there, step by step.
        catalogue: what is served now.
    """

    def __init__(self, run: Run, run_slowly: RunSlowly, catalogue: Callable[[], Catalogue]) -> None:
        self._run = run
        self._run_slowly = run_slowly
        self._catalogue = catalogue

    def catalogues(self) -> list[Catalogue]:
        """What is served."""
        return [self._catalogue()]

    async def submit(
        self, job: Job, on_progress: Callable[[Progress], None] | None = None
    ) -> JobResult:
        """Run a job; ``on_progress`` is called, in another thread, while a slow one runs.

        Raises:
            CamserveError: as the job's outcome has it.
        """
        outcome = await asyncio.to_thread(self._execute, job, on_progress)
        if isinstance(outcome, JobResult):
            return outcome
        raise outcome

    def _execute(self, job: Job, on_progress: Callable[[Progress], None] | None) -> Outcome:
        if not job.slow:
            return execute(self._run, [job])[0]
        entry = Entry(job=job, owner=self, job_id=0, settle=lambda _outcome: None)
        while isinstance(result := advance(self._run_slowly, entry), Progress):
            if on_progress:
                on_progress(result)
        return result
