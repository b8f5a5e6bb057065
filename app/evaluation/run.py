"""The commands ``evaluate`` and ``sanity``: questions, models and methods put together."""

import sys
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from app.backbones.manifest import find_manifest
from app.backbones.model import Loading, Model
from app.errors import SetupError
from app.evaluation.evaluate import Figures, evaluate, model_input
from app.evaluation.questions import fresh, of_folder
from app.evaluation.sanity import STAGES, Sanity, sanity
from app.explain.registry import every_info
from app.service import Service
from app.settings import Settings

_BAR = 30


class ProgressBar:
    """A line that is drawn over itself, where somebody watches."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0

    def step(self) -> None:
        self._done += 1
        if sys.stderr.isatty():
            filled = "#" * (_BAR * self._done // self._total)
            end = "\n" if self._done == self._total else ""
            sys.stderr.write(f"\r[{filled:<{_BAR}}] {self._done}/{self._total}{end}")
            sys.stderr.flush()


async def run_evaluation(
    service: Service,
    models: Sequence[str],
    *,
    methods: Sequence[str] | None,
    folder: Path | None,
    n: int,
    budget: int,
    seed: int,
) -> list[Figures]:
    """Evaluate methods of several models, on a folder or on fresh scenes.

    Raises:
        CamserveError: a model cannot be had, or there is nothing to ask it.
    """
    chosen = {name: service.models().ready(name) for name in models}
    asked = {name: of_folder(folder)[:n] if folder else fresh(name, n, seed) for name in models}
    todo = [(name, method) for name in models for method in methods or chosen[name].methods]
    bar = ProgressBar(sum(len(asked[name]) for name, _ in todo))
    return [
        await evaluate(service, chosen[name], method, asked[name], budget, bar.step)
        for name, method in todo
    ]


def run_sanity(
    settings: Settings, name: str, methods: Sequence[str] | None, budget: int
) -> list[Sanity]:
    """The model-randomisation test of one model, on the sample pictures.

    Raises:
        SetupError: there is no such model, or it cannot be loaded.
    """
    manifest = find_manifest(settings.models_dir, name).model_copy(update={"precision": None})
    # Its weights are about to change, so that its trunk must not hold copies of them.
    loading = replace(Loading.by(settings), fused=False, precision="fp32")
    model = Model(manifest, torch.device("cpu"), loading)
    suited = [m for m, info in every_info().items() if model.provides.issuperset(info.needs)]
    chosen = list(methods or suited)
    if unsuited := set(chosen) - set(suited):
        raise SetupError(f"{', '.join(sorted(unsuited))}: not for {name}")
    pictures = [model_input(model.preprocess, file.read_bytes())[0] for file in _samples(settings)]
    bar = ProgressBar(len(chosen) * len(pictures) * (len(STAGES) + 2))
    return sanity(model, chosen, pictures, budget, bar.step)


def _samples(settings: Settings) -> list[Path]:
    folder = settings.models_dir / "samples"
    try:
        entries = tomllib.loads((folder / "samples.toml").read_text("utf-8"))["sample"]
    except OSError as exc:
        raise SetupError(f"{folder}: no sample pictures: {exc.strerror}") from exc
    return [folder / entry["file"] for entry in entries]
