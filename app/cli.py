"""The command line: ``serve``, ``explain``, ``models``."""

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

import app
from app.errors import CamserveError, SetupError
from app.options import ExplainOptions
from app.settings import Settings
from app.types import Answer

_SERVED_BY_FLAGS = {"output", "format", "deadline_ms"}  # -o says these; a person can wait


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error is one line on standard error, and exit status 2."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _dispatch(argv)
    except (CamserveError, ValidationError) as exc:
        print(f"camserve: {_one_line(exc)}", file=sys.stderr)
        sys.exit(2)


def _dispatch(argv: list[str]) -> None:
    if argv[:1] == ["child"]:  # started by the pool, not by a person
        from app.main import run_child

        run_child(argv[1], int(argv[2]))
    elif argv[:1] == ["serve"]:
        from app.main import serve

        serve(settings_from(argv[1:]))
    else:
        arguments = _parser().parse_args(argv)
        arguments.run(arguments)


def settings_from(flags: list[str]) -> Settings:
    """Settings from the environment, and flags, which win.

    Raises:
        pydantic.ValidationError: naming the setting.
    """
    return Settings(_cli_parse_args=flags, _cli_kebab_case=True, _cli_prog_name="camserve serve")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("camserve", description=app.__doc__)
    parser.add_argument("--version", action="version", version=app.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("serve", help="run the service; serve --help lists every setting")
    explain = commands.add_parser("explain", help="explain one picture, without a server")
    explain.add_argument("image", type=Path)
    explain.add_argument(
        "-o", "--output", type=Path, help="where the overlay goes (.png, .webp or .jpg)"
    )
    for name, field in ExplainOptions.model_fields.items():
        if name not in _SERVED_BY_FLAGS:
            flag = f"--{name.replace('_', '-')}"
            explain.add_argument(flag, dest=name, default=None, help=field.description)
    explain.set_defaults(run=_explain)
    models = commands.add_parser("models", help="list the models of the models folder")
    models.set_defaults(run=_models)
    return parser


def _explain(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    settings = _settings_for_one(options)
    answer = asyncio.run(_explain_once(settings, options, _read(arguments.image)))
    _print(answer)
    if arguments.output:
        _write(answer, arguments.output)


def _write(answer: Answer, file: Path) -> None:
    overlays = [e.overlay for e in answer.explanations if e.overlay]
    if len(overlays) != 1:
        raise SetupError(f"{len(overlays)} maps do not fit one file: ask for one class, or no -o")
    try:
        file.write_bytes(overlays[0].data)
    except OSError as exc:
        raise SetupError(f"{file}: {exc.strerror}") from exc
    print(f"{file}: {overlays[0].width}x{overlays[0].height}")


def _options(arguments: argparse.Namespace) -> ExplainOptions:
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name in ExplainOptions.model_fields
        and name not in _SERVED_BY_FLAGS
        and value is not None
    }
    suffix = (arguments.output or Path("x.png")).suffix.lstrip(".").lower()
    image_format = {"jpg": "jpeg"}.get(suffix, suffix)
    return ExplainOptions.model_validate({**given, "output": "overlay", "format": image_format})


def _settings_for_one(options: ExplainOptions) -> Settings:
    settings = Settings()
    model = options.model or settings.start_model
    return settings.model_copy(
        update={
            "models": (model,),
            "default_model": model,
            "max_batch_size": 16,
            "deadline_s": 1e6,
            "slow_deadline_s": 1e6,
        }
    )


async def _explain_once(settings: Settings, options: ExplainOptions, image: bytes) -> Answer:
    from app.engine.local import LocalEngine
    from app.main import find_devices, make_runner, make_service

    device = find_devices(settings.devices)[0]
    runner, names = make_runner(settings, device, os.cpu_count() or 1)
    runner.load(names, lambda: None)
    service = make_service(LocalEngine(runner.run, runner.run_slowly, runner.catalogue), settings)
    return await service.answer(image, options)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as exc:
        raise SetupError(f"{file}: {exc.strerror}") from exc


def _print(answer: Answer) -> None:
    print(f"{answer.model.name} ({answer.model.architecture})")
    for prediction in answer.predictions:
        print(f"  {prediction.score:7.2%}  {prediction.label}  [{prediction.index}]")
    for explanation in answer.explanations:
        low, high = explanation.raw.min(), explanation.raw.max()
        flags = f"  {', '.join(explanation.flags)}" if explanation.flags else ""
        print(
            f"{explanation.method} of {explanation.label!r} at {explanation.layer}:"
            f" {low:.4g} to {high:.4g}{flags}"
        )


def _models(_arguments: argparse.Namespace) -> None:
    from app.backbones.manifest import read_manifests

    for manifest in read_manifests(Settings().models_dir).values():
        print(f"{manifest.name:20} {manifest.architecture:20} {manifest.description}")


def _one_line(exc: CamserveError | ValidationError) -> str:
    if isinstance(exc, CamserveError):
        return exc.detail
    return "; ".join(
        f"{_flag(exc, error['loc'])}: {error['msg'].removeprefix('Value error, ')}"
        for error in exc.errors()
    )


def _flag(exc: ValidationError, location: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, location))
    return f"APP_{name.upper()}" if exc.title == "Settings" else name
