"""A worker's thread that loads models: first those of the start, then what the parent asks for."""

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from threading import Thread

from app.backbones.manifest import Manifest
from app.backbones.registry import Registry
from app.engine.batching import BatchQueue
from app.engine.control import Line
from app.engine.device import apart
from app.engine.runner import Runner
from app.errors import CamserveError

log = logging.getLogger(__name__)


class Loader:
    """Changes what a worker serves while it serves.

    Args:
        registry: the worker's models.
        runner: warms them up.
        queue: where jobs of a model that was replaced may still wait.
        on_change: called whenever something else is served than before.
        send: a line to the parent.
    """

    def __init__(
        self,
        registry: Registry,
        runner: Runner,
        queue: BatchQueue,
        on_change: Callable[[], None],
        send: Callable[[Line], None],
    ) -> None:
        self._registry = registry
        self._runner = runner
        self._queue = queue
        self._on_change = on_change
        self._send = send
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._leaving: set[tuple[str, str]] = set()  # models that threads wait to let go
        self.has_started = False  # the models of the start are loaded, as far as they can be

    def start(self, names: Sequence[str]) -> None:
        """Load the models of the start, then obey, in a thread of its own."""
        Thread(target=self._run, args=(names,), daemon=True).start()

    def listen(self, lines: Iterable[Line]) -> None:
        """Take what the parent says until it hangs up; one thing after the other is done."""
        for line in lines:
            self._tasks.put(partial(self._answer, line))

    def do(self, task: Callable[[], None]) -> None:
        """Do something while no model is loaded, and wait until it is done.

        Raises:
            Exception: as the task does.
        """
        done: Future[None] = Future()
        self._tasks.put(partial(_fulfil, done, task))
        done.result()

    def _run(self, names: Sequence[str]) -> None:
        apart(self._load_first, names)
        while True:
            self._tasks.get()()

    def _load_first(self, names: Sequence[str]) -> None:
        self._runner.load(names, self._on_change)
        self.has_started = True
        self._send({"kind": "loaded"})
        self._on_change()

    def _answer(self, line: Line) -> None:
        error = apart(self._try, line)
        self._send({"kind": "done", "id": line["id"], "error": error and error.as_line()})

    def _try(self, line: Line) -> CamserveError | None:
        """Obey, and answer whatever happens: the parent waits for it, with all that comes later."""
        try:
            return self._obey(line)
        except Exception:
            log.exception("%s failed", line["action"])
            return CamserveError("The worker failed at that; its log says why.")

    def _obey(self, line: Line) -> CamserveError | None:
        error = None
        if line["action"] == "load":
            manifest = Manifest.model_validate(line["manifest"])
            error = self._runner.renew(manifest, self._on_change)
        elif line["action"] == "list":
            self._registry.enlist(Manifest.model_validate(line["manifest"]))
        elif line["action"] == "unload":
            self._registry.unload(line["name"])
        else:
            self._registry.forget(line["name"])
        self._on_change()  # first of all, so that no new job comes for what is let go
        for retired in set(self._registry.retired()) - self._leaving:
            self._leaving.add(retired)
            Thread(target=self._let_go, args=retired, daemon=True).start()
        return error

    def _let_go(self, name: str, version: str) -> None:
        self._queue.wait_until_free(name, version)
        self._leaving.discard((name, version))
        self._registry.release(name, version)


def _fulfil(done: "Future[None]", task: Callable[[], None]) -> None:
    try:
        apart(task)
    except Exception as exc:  # noqa: BLE001 - whoever waits for it has it
        done.set_exception(exc)
    else:
        done.set_result(None)
