"""Who is measured: how each is started, and which paths it answers."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmark.places import MODELS, ROOT, WORK


@dataclass(frozen=True, slots=True)
class Contender:
    """A server.

    ``command`` has the fields ``port`` and ``model``; ``paths`` what is posted where:
    ``explain`` gives the map drawn over the picture, ``heatmap`` the map alone;
    ``serves_both``: one start answers predict and explain.
    """

    name: str
    title: str
    command: tuple[str, ...]
    paths: Mapping[str, str] = field(
        default_factory=lambda: {"explain": "/explain", "predict": "/predict"}
    )
    serves_both: bool = True

    @property
    def is_peer(self) -> bool:
        """Whether it has an environment of its own."""
        return not self.name.startswith("camserve")

    def command_for(self, model: str, port: int) -> list[str]:
        return [part.format(model=model, port=port) for part in self.command]

    def environment_for(self, model: str, port: int, what: str, temporary: str) -> dict[str, str]:
        """What a peer reads, beside the variables of this process."""
        return {
            "PYTHONPATH": str(ROOT / "scripts"),
            "BENCH_MODEL": model,
            "BENCH_MODELS": str(MODELS),
            "BENCH_PORT": str(port),
            "BENCH_WHAT": what,
            "BENCH_TEMP": temporary,
            "BENTOML_HOME": str(WORK / "bentoml-home"),
            "BENTOML_DO_NOT_TRACK": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
        }


def _camserve(name: str, title: str, *flags: str) -> Contender:
    serve = (sys.executable, "-m", "app", "serve", "--port", "{port}", "--models", "{model}")
    return Contender(
        name,
        title,
        (*serve, "--models-dir", str(MODELS), *flags),
        {
            "explain": "/api/v1/explain?output=overlay",
            "heatmap": "/api/v1/explain",
            "predict": "/api/v1/predict",
        },
    )


def _peer(name: str, title: str, *, serves_both: bool = True) -> Contender:
    python = str(WORK / name / "bin" / "python")
    module = f"benchmark.peers.{name}.server"
    return Contender(name, title, (python, "-m", module), serves_both=serves_both)


def _bentoml() -> Contender:
    name = "bentoml_torchcam"
    program = str(WORK / name / "bin" / "bentoml")
    module = f"benchmark.peers.{name}.server:Classifier"
    flags = ("--host", "127.0.0.1", "--port", "{port}", "--working-dir", str(ROOT / "scripts"))
    return Contender(name, "BentoML + torchcam", (program, "serve", module, *flags))


CONTENDERS = {
    contender.name: contender
    for contender in (
        _camserve("camserve", "camserve"),
        _camserve("camserve-uncompiled", "camserve, nothing compiled", "--compile", "off"),
        _camserve("camserve-bf16", "camserve, bf16", "--precision", "bf16"),
        _peer("fastapi_grad_cam", "FastAPI + grad-cam"),
        _peer("litserve_torchcam", "LitServe + torchcam", serves_both=False),
        _bentoml(),
        _peer("ray_torchcam", "Ray Serve + torchcam"),
        _peer("mosec_torchcam", "mosec + torchcam"),
    )
}
PEERS = tuple(name for name, contender in CONTENDERS.items() if contender.is_peer)
