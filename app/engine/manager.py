"""Which models the workers shall have: kept by the parent, so that a new worker has the same."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.backbones.manifest import Manifest, read_manifests
from app.engine.control import Line
from app.errors import (
    CamserveError,
    LoadFailed,
    ManifestError,
    NoWorker,
    UnknownModel,
    WorkerLost,
    error_from_line,
)
from app.types import Action

log = logging.getLogger(__name__)

Answers = dict[str, CamserveError | None]


@dataclass(eq=False)
class _Question:
    """What the workers were told to do, and who has not answered yet."""

    line: Line
    waiting: set[str] = field(default_factory=set)
    answers: Answers = field(default_factory=dict)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, worker: str, error: CamserveError | None) -> None:
        if worker in self.waiting:
            self.waiting.discard(worker)
            self.answers[worker] = error
        if not self.waiting:
            self.answered.set()


class Manager:
    """Loads and unloads models in all workers, one change after the other.

    A change that fails in one worker is undone in the others: all serve the same.

    Args:
        folder: of the manifests; read again for each change.
        manifests: what it holds now.
        wanted: names of the models to be loaded.
        tell: sends a line to every worker that runs, and returns their names.
    """

    def __init__(
        self,
        folder: Path,
        manifests: Mapping[str, Manifest],
        wanted: Iterable[str],
        tell: Callable[[Line], set[str]],
    ) -> None:
        self._folder = folder
        self._manifests = dict(manifests)
        self._wanted = dict.fromkeys(wanted)
        self._tell = tell
        self._one_by_one = asyncio.Lock()
        self._ids = itertools.count()
        self._failed: set[str] = set()  # models that workers list because they could not load them
        self._question: _Question | None = None

    def brief(self) -> Line:
        """What a new worker must know."""
        return {
            "manifests": [_to_line(manifest) for manifest in self._manifests.values()],
            "models": list(self._wanted),
        }

    def pending(self) -> list[Line]:
        """What the other workers are doing: a new one must do that as well."""
        return [self._question.line] if self._question else []

    def done(self, worker: str, line: Line) -> None:
        """A worker's answer."""
        if self._question and self._question.line["id"] == line["id"]:
            error = error_from_line(line["error"]) if line["error"] else None
            self._question.settle(worker, error)

    def lost(self, worker: str) -> None:
        """A worker has ended; what it was asked will not be answered."""
        if self._question:
            lost = WorkerLost(f"{worker} ended while it did that; what it served is loaded again.")
            self._question.settle(worker, lost)

    async def manage(self, action: Action, name: str) -> None:
        """Load a model, or unload it.

        Raises:
            UnknownModel: there is no manifest of that name.
            LoadFailed: the folder or the model is broken; what was served before is served on.
            CamserveError: there is no worker, no memory, or a worker ended.
        """
        async with self._one_by_one:
            if action == "load":
                await self._load(self._find(name))
            else:
                await self._unload(name)

    async def reload(self) -> None:
        """Follow the models folder: load what changed, unload what is gone, list what is new."""
        async with self._one_by_one:
            try:
                found = read_manifests(self._folder)
            except ManifestError as exc:
                log.error("the models stay as they are: %s", exc.detail)  # noqa: TRY400
                return
            for name in (self._manifests.keys() | self._failed) - found.keys():
                await self._forget(name)
            for manifest in found.values():
                await self._follow(manifest)
            log.info("the models folder was read again: %d models", len(found))

    async def _follow(self, manifest: Manifest) -> None:
        if manifest.name not in self._wanted:
            self._manifests[manifest.name] = manifest
            await self._ask("list", manifest.name, manifest)
            return
        try:
            await self._load(manifest)
        except CamserveError as exc:
            log.error("%s stays as it was: %s", manifest.name, exc.detail)  # noqa: TRY400

    def _find(self, name: str) -> Manifest:
        try:
            found = read_manifests(self._folder)
        except ManifestError as exc:
            raise LoadFailed(exc.detail) from exc
        if name not in found:
            raise UnknownModel(f"There is no manifest of {name!r} in the models folder.")
        return found[name]

    async def _load(self, manifest: Manifest) -> None:
        answers = await self._ask("load", manifest.name, manifest)
        errors = [error for error in answers.values() if error]
        if errors and len(errors) < len(answers):
            await self._undo(manifest.name)
        if errors:
            self._failed.add(manifest.name)
            raise errors[0]
        if not answers:
            raise NoWorker("No worker is up that could load it.", retry_after=2)
        self._manifests[manifest.name] = manifest
        self._wanted[manifest.name] = None

    async def _undo(self, name: str) -> None:
        if name in self._wanted and name in self._manifests:
            await self._ask("load", name, self._manifests[name])
        else:
            await self._ask("unload", name)

    async def _unload(self, name: str) -> None:
        if name not in self._manifests and name not in self._wanted:
            raise UnknownModel(f"There is no model {name!r}.")
        self._wanted.pop(name, None)  # first: a worker that starts now must not have it
        await self._ask("unload", name)

    async def _forget(self, name: str) -> None:
        self._wanted.pop(name, None)
        self._manifests.pop(name, None)
        self._failed.discard(name)
        await self._ask("forget", name)

    async def _ask(self, action: str, name: str, manifest: Manifest | None = None) -> Answers:
        line: Line = {"kind": "models", "id": next(self._ids), "action": action, "name": name}
        if manifest:
            line["manifest"] = _to_line(manifest)
        question = self._question = _Question(line)
        try:
            question.waiting = self._tell(line)
            if question.waiting:
                await question.answered.wait()
        finally:
            self._question = None
        return question.answers


def _to_line(manifest: Manifest) -> Line:
    return {**manifest.model_dump(mode="json"), "path": str(manifest.path)}
