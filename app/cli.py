"""The command line: ``serve``, ``explain``, ``models``, ``tune``, ``evaluate``, ``sanity``."""

import argparse
import asyncio
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

import app
from app import console
from app.cli_models import add_models
from app.cli_tune import add_tune
from app.errors import CamserveError, SetupError
from app.options import ExplainOptions
from app.settings import Settings
from app.types import Answer, Explanation

if TYPE_CHECKING:
    from app.service import Service

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no other name

# -o says the first two; a person can wait; boxes are not told.
_SERVED_BY_FLAGS = {"output", "format", "deadline_ms", "threshold"}


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
    _add_evaluate(commands)
    _add_sanity(commands)
    models = commands.add_parser("models", help="list the models; or init, pull or check one")
    add_models(models, _local_service)
    add_tune(commands.add_parser("tune", help="measure a model here, and print settings for it"))
    return parser


def _add_evaluate(commands: "Commands") -> None:
    evaluate = commands.add_parser(
        "evaluate", help="pointing game, deletion, insertion, drop: how good are the maps?"
    )
    evaluate.add_argument(
        "folder", type=Path, nargs="?", help="pictures with masks beside them; else fresh scenes"
    )
    evaluate.add_argument("--models", default="shapes,lesion", help="a comma list")
    evaluate.add_argument("--methods", help="a comma list; all that suit a model if absent")
    evaluate.add_argument("-n", type=int, default=30, help="questions for each model")
    evaluate.add_argument("--budget", type=int, default=256, help="passes for each map")
    evaluate.add_argument("--seed", type=int, default=0, help="of the scenes")
    evaluate.add_argument("--out", type=Path, default=Path("evaluation"), help="folder of results")
    evaluate.set_defaults(run=_evaluate)


def _add_sanity(commands: "Commands") -> None:
    sanity = commands.add_parser(
        "sanity", help="do the maps change when the model forgets what it has learned?"
    )
    sanity.add_argument("model")
    sanity.add_argument("--methods", help="a comma list; all that suit the model if absent")
    sanity.add_argument("--budget", type=int, default=128, help="passes for each map")
    sanity.set_defaults(run=_sanity)


def _evaluate(arguments: argparse.Namespace) -> None:
    from app.evaluation.report import as_json, as_plot, as_table
    from app.evaluation.run import run_evaluation

    models = tuple(arguments.models.split(","))
    figures = asyncio.run(
        run_evaluation(
            _local_service(Settings(), models),
            models,
            methods=_names(arguments.methods),
            folder=arguments.folder,
            n=arguments.n,
            budget=arguments.budget,
            seed=arguments.seed,
        )
    )
    console.make_folder(arguments.out)
    plot = io.BytesIO()
    as_plot(figures).save(plot, "PNG")
    console.write(arguments.out / "evaluation.json", as_json(figures).encode())
    console.write(arguments.out / "evaluation.md", f"{as_table(figures)}\n".encode())
    console.write(arguments.out / "evaluation.png", plot.getvalue())
    print(as_table(figures))


def _sanity(arguments: argparse.Namespace) -> None:
    from app.evaluation.run import run_sanity

    found = run_sanity(Settings(), arguments.model, _names(arguments.methods), arguments.budget)
    print("| method | classifier | a quarter | half | all layers | |")
    print("|---|---|---|---|---|---|")
    for row in found:
        cells = " | ".join(f"{value:.2f}" for value in row.correlations)
        print(f"| `{row.method}` | {cells} | {'passes' if row.passes else 'FAILS'} |")


def _local_service(settings: Settings, models: tuple[str, ...]) -> "Service":
    """The service in this process; a person at a command line can wait."""
    from app.main import local_service

    patient = {"deadline_s": 1e6, "slow_deadline_s": 1e6}
    update = {"models": models, "default_model": models[0], **patient}
    return local_service(settings.model_copy(update=update))


def _names(text: str | None) -> tuple[str, ...] | None:
    return tuple(text.split(",")) if text else None


def _explain(arguments: argparse.Namespace) -> None:
    options = _options(arguments)
    settings = Settings()
    service = _local_service(settings, (options.model or settings.start_model,))
    answer = asyncio.run(service.answer(console.read(arguments.image), options))
    _print(answer)
    if arguments.output:
        _write(answer, arguments.output)


def _write(answer: Answer, file: Path) -> None:
    overlays = [e.overlay for e in answer.explanations if e.overlay]
    if len(overlays) != 1:
        raise SetupError(f"{len(overlays)} maps do not fit one file: ask for one class, or no -o")
    console.write(file, overlays[0].data)
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
        for line in _questions(explanation):
            print(f"  {line}")


def _questions(explanation: Explanation) -> Iterator[str]:
    """What else was asked of a map."""
    if explanation.with_region and explanation.region is None:
        yield "region: nothing speaks for this class anywhere"
    if report := explanation.region:
        lift = "" if report.lift is None else f", lift {report.lift:.2f}"
        shares = f"{report.inside_share:.1%} of the evidence, {report.area_share:.1%} of the area"
        yield f"region: {shares}{lift}"
        if report.counterfactual:
            whole, without, alone = report.counterfactual
            yield f"score {whole:.2%}, without the region {without:.2%}, of it alone {alone:.2%}"
    for kind, curve in (explanation.checks or {}).items():
        yield f"{kind}: area {curve.area:.3f}, of a random map {curve.random_area:.3f}"


def _one_line(exc: CamserveError | ValidationError) -> str:
    if isinstance(exc, CamserveError):
        return exc.detail
    return "; ".join(
        f"{_flag(exc, error['loc'])}: {error['msg'].removeprefix('Value error, ')}"
        for error in exc.errors()
    )


def _flag(exc: ValidationError, location: tuple[int | str, ...]) -> str:
    if exc.title == "Settings":  # not which of several types a value is none of
        return f"APP_{location[0]}".upper()
    return ".".join(map(str, location))
