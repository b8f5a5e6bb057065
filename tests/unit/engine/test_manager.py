"""The parent's part in loading models, with workers that the tests script."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from app.backbones.manifest import read_manifests
from app.engine.control import Line
from app.engine.manager import Manager
from app.errors import LoadFailed, NoWorker, UnknownModel, WorkerLost

FAILURE = LoadFailed("no weights").as_line()


class Crew:
    """Workers that answer at once; ``failing`` names models and the workers that fail on them."""

    def __init__(self, folder: Path, workers: tuple[str, ...] = ("w0", "w1")) -> None:
        self.folder = folder
        self.workers = set(workers)
        self.failing: dict[str, set[str]] = {}
        self.told: list[str] = []
        self.answers = True
        write(folder, "first")
        self.manager = Manager(folder, read_manifests(folder), ["first"], self._tell)

    def _tell(self, line: Line) -> set[str]:
        seed = f" {line['manifest']['seed']}" if "manifest" in line else ""
        self.told.append(f"{line['action']} {line['name']}{seed}")
        if self.answers:
            for worker in self.workers:
                failed = line["action"] == "load" and worker in self.failing.get(line["name"], ())
                answer = {"id": line["id"], "error": FAILURE if failed else None}
                asyncio.get_running_loop().call_soon(self.manager.done, worker, answer)
        return set(self.workers)

    @property
    def brief(self) -> tuple[dict[str, int], list[str]]:
        """What a worker that starts now is told: the seeds of the manifests, and what to load."""
        brief = self.manager.brief()
        return {m["name"]: m["seed"] for m in brief["manifests"]}, brief["models"]


def write(folder: Path, name: str, seed: int = 0) -> None:
    (folder / f"{name}.toml").write_text(
        f'name = "{name}"\nfamily = "torchvision"\narchitecture = "resnet18"\n'
        f'weights = "random"\nseed = {seed}\n'
    )


@pytest.fixture
def crew(tmp_path: Path) -> Crew:
    return Crew(tmp_path)


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def test_a_loaded_model_is_had_by_every_worker_and_by_those_that_start_later(crew: Crew) -> None:
    write(crew.folder, "second", seed=7)
    play(crew.manager.manage("load", "second"))
    assert crew.told == ["load second 7"]
    assert crew.brief == ({"first": 0, "second": 7}, ["first", "second"])


def test_a_model_is_loaded_as_its_manifest_is_now(crew: Crew) -> None:
    write(crew.folder, "first", seed=1)
    play(crew.manager.manage("load", "first"))
    assert crew.brief == ({"first": 1}, ["first"])


def test_an_unloaded_model_is_not_loaded_by_a_worker_that_starts_later(crew: Crew) -> None:
    play(crew.manager.manage("unload", "first"))
    assert crew.told == ["unload first"]
    assert crew.brief == ({"first": 0}, [])


@pytest.mark.parametrize("action", ["load", "unload"])
def test_a_model_without_a_manifest_is_unknown(crew: Crew, action: Any) -> None:
    with pytest.raises(UnknownModel):
        play(crew.manager.manage(action, "nobody"))
    assert crew.told == []


def test_a_model_that_cannot_be_loaded_leaves_all_as_it_was(crew: Crew) -> None:
    crew.failing = {"first": {"w0", "w1"}}
    write(crew.folder, "first", seed=1)
    with pytest.raises(LoadFailed, match="no weights"):
        play(crew.manager.manage("load", "first"))
    assert crew.told == ["load first 1"]
    assert crew.brief == ({"first": 0}, ["first"])


@pytest.mark.parametrize(("name", "undo"), [("first", "load first 0"), ("new", "unload new")])
def test_what_only_some_workers_could_load_is_undone_there(
    crew: Crew, name: str, undo: str
) -> None:
    crew.failing = {name: {"w1"}}
    write(crew.folder, name, seed=1)
    with pytest.raises(LoadFailed):
        play(crew.manager.manage("load", name))
    assert crew.told == [f"load {name} 1", undo]
    assert crew.brief == ({"first": 0}, ["first"])


def test_a_worker_that_dies_of_a_model_is_not_given_it_again(crew: Crew) -> None:
    crew.answers = False

    async def scenario() -> None:
        loading = asyncio.create_task(crew.manager.manage("load", "first"))
        await asyncio.sleep(0)
        (pending,) = crew.manager.pending()
        assert pending["name"] == "first"
        for worker in ("w0", "w1"):
            crew.manager.lost(worker)
        with pytest.raises(WorkerLost, match="w0"):
            await loading
        assert crew.manager.pending() == []

    write(crew.folder, "first", seed=1)
    play(scenario())
    assert crew.brief == ({"first": 0}, ["first"])


def test_answers_to_another_question_are_no_answers(crew: Crew) -> None:
    crew.answers = False

    async def scenario() -> None:
        loading = asyncio.create_task(crew.manager.manage("load", "first"))
        await asyncio.sleep(0)
        for number, worker in ((99, "w0"), (0, "stranger"), (0, "w0"), (0, "w0")):
            crew.manager.done(worker, {"id": number, "error": None})
            assert not loading.done()
        crew.manager.done("w1", {"id": 0, "error": None})
        await loading

    play(scenario())


def test_without_a_worker_nothing_is_loaded(tmp_path: Path) -> None:
    crew = Crew(tmp_path, workers=())
    with pytest.raises(NoWorker):
        play(crew.manager.manage("load", "first"))
    play(crew.manager.manage("unload", "first"))  # the next worker will not have it
    assert crew.brief[1] == []


def test_a_broken_folder_loads_nothing_and_says_what_is_broken(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    (crew.folder / "broken.toml").write_text("name = ")
    write(crew.folder, "second")
    with pytest.raises(LoadFailed, match=r"broken\.toml"):
        play(crew.manager.manage("load", "second"))
    play(crew.manager.reload())
    (record,) = caplog.records
    assert "broken.toml" in record.getMessage()
    assert crew.told == []
    assert crew.brief == ({"first": 0}, ["first"])


Change = Callable[[Path], None]


@pytest.mark.parametrize(
    ("change", "told", "brief"),
    [
        (lambda _: None, ["load first 0"], ({"first": 0}, ["first"])),
        (lambda f: write(f, "first", 3), ["load first 3"], ({"first": 3}, ["first"])),
        (
            lambda f: write(f, "new", 2),
            ["load first 0", "list new 2"],
            ({"first": 0, "new": 2}, ["first"]),
        ),
        (
            lambda f: (
                (f / "first.toml")
                .rename(f / "x.toml")
                .write_text((f / "x.toml").read_text().replace('"first"', '"other"'))
            ),
            ["forget first", "list other 0"],
            ({"other": 0}, []),
        ),
    ],
    ids=["nothing", "edited", "new", "gone"],
)
def test_the_models_follow_their_folder(
    crew: Crew, change: Change, told: list[str], brief: tuple[dict[str, int], list[str]]
) -> None:
    change(crew.folder)
    play(crew.manager.reload())
    assert (crew.told, crew.brief) == (told, brief)


def test_a_model_that_could_never_be_loaded_goes_with_its_manifest(crew: Crew) -> None:
    write(crew.folder, "second")
    crew.failing = {"second": {"w0", "w1"}}
    with pytest.raises(LoadFailed):
        play(crew.manager.manage("load", "second"))
    (crew.folder / "second.toml").unlink()
    play(crew.manager.reload())
    assert "forget second" in crew.told


def test_a_changed_model_that_cannot_be_loaded_stays_and_the_others_follow(
    crew: Crew, caplog: pytest.LogCaptureFixture
) -> None:
    crew.failing = {"first": {"w0", "w1"}}
    write(crew.folder, "first", seed=1)
    write(crew.folder, "second")
    play(crew.manager.reload())
    assert "no weights" in caplog.text
    assert crew.brief == ({"first": 0, "second": 0}, ["first"])
