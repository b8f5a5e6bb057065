"""The commands about models: ``models``, ``models init``, ``models pull``, ``models check``."""

import argparse
import asyncio
import hashlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from app import console
from app.backbones.manifest import find_manifest, read_manifest, read_manifests
from app.errors import SetupError
from app.options import ExplainOptions, PredictOptions
from app.settings import Settings
from app.types import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.service import Service

_RUNS = 20


def add_models(models: argparse.ArgumentParser, local_service: "Callable[..., Service]") -> None:
    """Give the ``models`` command its arguments and sub-commands."""
    models.set_defaults(run=_list)
    commands = models.add_subparsers(metavar="COMMAND")
    init = commands.add_parser("init", help="write a manifest for a checkpoint of torchvision's")
    init.add_argument("checkpoint", type=Path, help=".pth (a state_dict) or .safetensors")
    init.add_argument("--name", help="of the model; the file's otherwise")
    init.add_argument("--labels", type=Path, help="a text file, one label a line, or JSON")
    init.set_defaults(run=_init)
    pull = commands.add_parser("pull", help="download a model's weights into the cache")
    pull.add_argument("name")
    pull.set_defaults(run=_pull)
    check = commands.add_parser("check", help="load a model, time it, and explain a picture by it")
    check.add_argument("name")
    check.add_argument("--image", type=Path, help="a picture; the first sample otherwise")
    check.add_argument("-o", "--output", type=Path, help="where the overlay goes; NAME-check.png")
    check.set_defaults(run=lambda arguments: _check(arguments, local_service))


def _list(_arguments: argparse.Namespace) -> None:
    for manifest in read_manifests(Settings().models_dir).values():
        print(f"{manifest.name:20} {manifest.architecture:20} {manifest.description}")


def _init(arguments: argparse.Namespace) -> None:
    from app.backbones.guess import guess
    from app.backbones.weights import read_state

    folder, checkpoint = Settings().models_dir, arguments.checkpoint
    name = arguments.name or re.sub(r"[^A-Za-z0-9_-]+", "-", checkpoint.stem).strip("-_")
    file = folder / f"{name}.toml"
    if file.exists():
        raise SetupError(f"{file} exists: choose another --name")
    found = guess(read_state(checkpoint))
    weights = _bring(checkpoint, folder, f"{name}{checkpoint.suffix}")
    lines = {
        "name": name,
        "family": "torchvision",
        "architecture": found.architecture,
        "weights": weights.name,
        "sha256": hashlib.sha256(console.read(weights)).hexdigest(),
    }
    text = "".join(f'{key} = "{value}"\n' for key, value in lines.items())
    text += f"num_classes = {found.num_classes}\n"
    if arguments.labels:
        labels = _bring(arguments.labels, folder, f"{name}-labels{arguments.labels.suffix}")
        text += f'labels = "{labels.name}"\n'
    console.write(file, text.encode())
    read_manifest(file)
    print(
        f"{file}: guessed {found.architecture} with {found.num_classes} classes from the tensors'"
        " names and shapes, and takes pictures as torchvision's own weights do; see [preprocess] if"
        f" it was trained otherwise.\nServe it: scripts/serve --models {name}"
    )


def _bring(file: Path, folder: Path, name: str) -> Path:
    """A file in the models folder: the one that is there already, or a copy."""
    if file.resolve().parent == folder.resolve():
        return file
    console.write(folder / name, console.read(file))
    return folder / name


def _pull(arguments: argparse.Namespace) -> None:
    from app.backbones.family import build

    settings = Settings()
    manifest = find_manifest(settings.models_dir, arguments.name)
    build(manifest, allow_factories=settings.allow_factories)
    print(f"{manifest.name}: the weights are here and fit {manifest.architecture}")


def _check(arguments: argparse.Namespace, local_service: "Callable[..., Service]") -> None:
    settings = Settings()
    manifest = find_manifest(settings.models_dir, arguments.name)
    samples = sorted((settings.models_dir / "samples").glob("*.jpg"))
    image = arguments.image or next(iter(samples), None)
    if image is None:
        raise SetupError("there are no samples: give an --image")
    service = local_service(settings, (manifest.name,))
    output = arguments.output or Path(f"{manifest.name}-check.png")
    answer, seconds = asyncio.run(_measured(service, console.read(image)))
    model, (explanation,) = answer.model, answer.explanations
    median = sorted(seconds)[_RUNS // 2] * 1e3
    height, width = explanation.raw.shape
    print(
        f"{manifest.name}: passed its self-check; cut at {model.layer}, a map of"
        f" {height}x{width} cells"
    )
    print(f"{_RUNS} predictions, one by one: {median:.1f} ms in the median")
    assert explanation.overlay is not None  # noqa: S101 - it was asked for
    console.write(output, explanation.overlay.data)
    print(
        f"{image.name}: {answer.predictions[0].label}, {answer.predictions[0].score:.1%}: {output}"
    )


async def _measured(service: "Service", picture: bytes) -> tuple[Answer, list[float]]:
    answer = await service.answer(picture, ExplainOptions(output=("overlay",)))
    return answer, [await _timed(service, picture) for _ in range(_RUNS)]


async def _timed(service: "Service", picture: bytes) -> float:
    started = time.perf_counter()
    await service.answer(picture, PredictOptions())
    return time.perf_counter() - started
