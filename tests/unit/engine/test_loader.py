"""A worker that is told to load, to unload and to forget."""

from collections.abc import Iterator
from queue import Queue
from threading import Thread, active_count, current_thread
from typing import Any

import numpy as np
import pytest
import torch

from app.backbones.manifest import Manifest
from app.backbones.registry import Registry
from app.engine.batching import BatchQueue, Entry
from app.engine.control import Line
from app.engine.loader import Loader
from app.engine.runner import Runner
from app.engine.sharing import WholeDevice
from app.types import Job, JobResult
from tests.server import wait_for


def make_line(action: str, seed: int = 0, **keys: object) -> Line:
    manifest = {
        "path": "m.toml",
        "name": "m",
        "family": "torchvision",
        "architecture": "shufflenet_v2_x0_5",
        "weights": "random",
        "seed": seed,
        "num_classes": 4,
        "preprocess": {"resize": 64, "crop": 64},
        **keys,
    }
    return {"kind": "models", "id": seed, "action": action, "name": "m", "manifest": manifest}


class Work:
    """A loader, its registry and queue, and what it tells the parent."""

    def __init__(self) -> None:
        manifest = Manifest.model_validate(make_line("load")["manifest"])
        self.registry = Registry({"m": manifest}, torch.device("cpu"))
        self.runner = Runner(self.registry, max_batch_size=2)
        self.queue = BatchQueue(WholeDevice(2))
        self.told: Queue[Line] = Queue()
        self.states: list[str] = []
        self.threads: list[Thread] = []
        self.loader = Loader(self.registry, self.runner, self.queue, self._on_change, self.told.put)
        self.loader.start(self.registry.expect(["m"]))

    def _on_change(self) -> None:
        self.threads.append(current_thread())
        self.states += [model.state for model in self.runner.catalogue().models]

    def do(self, line: Line) -> Any:
        self.loader.listen([line])
        answer = self.told.get(timeout=60)
        assert (answer["kind"], answer["id"]) == ("done", line["id"])
        return answer["error"]

    def job(self) -> Job:
        (model,) = self.registry.models()
        pixels = np.zeros((64, 64, 3), np.uint8)
        return Job(model="m", version=str(model.version), pixels=pixels, deadline=1e12)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    assert work.told.get(timeout=60) == {"kind": "loaded"}
    wait_for(lambda: len(work.states) > 1)
    yield work
    work.queue.close()


def test_a_job_that_waits_is_run_by_the_version_it_was_meant_for(work: Work) -> None:
    job = work.job()
    work.queue.put(Entry(job=job, owner=None, job_id=0, settle=lambda _outcome: None))
    assert work.do(make_line("load", seed=1)) is None
    assert work.job().version != job.version
    assert isinstance(work.runner.run([job])[0], JobResult)
    assert work.registry.retired() == [("m", job.version)]
    batches = work.queue.batches()
    next(batches)
    work.queue.put(Entry(job=work.job(), owner=None, job_id=1, settle=lambda _outcome: None))
    next(batches)  # the first one is done
    wait_for(lambda: not work.registry.retired())


def test_a_version_that_waits_to_be_let_go_is_waited_for_once(work: Work) -> None:
    work.queue.put(Entry(job=work.job(), owner=None, job_id=0, settle=lambda _outcome: None))
    before = active_count()
    for seed in (1, 2, 1, 2):
        assert work.do(make_line("load", seed=seed)) is None
    wait_for(lambda: len(work.registry.retired()) == 1)
    wait_for(lambda: active_count() == before + 1)


def test_a_replaced_version_that_nobody_waits_for_is_let_go(work: Work) -> None:
    assert work.do(make_line("load", seed=1)) is None
    wait_for(lambda: not work.registry.retired())
    assert set(work.states) == {"ready"}, "it was served all the time"


def test_a_version_that_fails_is_answered_with_its_reason(work: Work) -> None:
    error = work.do(make_line("load", layer="nowhere"))
    assert error["code"] == "load_failed"
    assert "nowhere" in error["detail"]
    assert set(work.states) == {"ready"}


def test_a_model_is_unloaded_listed_loaded_and_forgotten(work: Work) -> None:
    for action, state in (("unload", "unloaded"), ("list", "unloaded"), ("load", "ready")):
        assert work.do(make_line(action)) is None
        assert work.states[-1] == state
    assert work.do(make_line("forget")) is None
    assert work.registry.models() == ()


def test_a_model_says_what_suits_it_when_it_was_loaded_later(work: Work) -> None:
    assert work.do(make_line("load", seed=1)) is None
    assert "gradcam" in work.runner.catalogue().models[0].methods


def test_a_thread_that_loaded_ends_and_with_it_those_that_openmp_gave_it(work: Work) -> None:
    assert work.do(make_line("load", seed=1)) is None
    assert work.threads
    assert not any(thread.is_alive() for thread in work.threads)


def test_the_parent_is_answered_whatever_happens(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret path")

    with monkeypatch.context() as broken:
        broken.setattr(work.runner, "renew", fail)
        error = work.do(make_line("load", seed=1))
    assert error["code"] == "internal_error"
    assert "secret" not in error["detail"]
    assert work.do(make_line("load", seed=2)) is None
