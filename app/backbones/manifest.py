"""Model manifests: one small TOML file says which model, which weights, which input.

Four keys suffice; the rest comes from the architecture's own metadata (``family.py``). No torch in
here, so that any process may read a manifest.
"""

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import ManifestError
from app.types import Interpolation, Precision

Side = Annotated[int, Field(ge=1, le=4096)]
Triple = tuple[float, float, float]
_WEIGHTS_FILES = (".safetensors", ".pth", ".pt")
_URLS = ("https://", "http://")


class PreprocessManifest(BaseModel):
    """The ``[preprocess]`` table; what is absent is the architecture's default."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resize: Side | tuple[Side, Side] | None = None
    crop: Side | tuple[Side, Side] | None = None
    interpolation: Interpolation | None = None
    mean: Triple | None = None
    std: Triple | None = None


class Manifest(BaseModel):
    """One model. ``path`` is the file it was read from; what it names lies beside that."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path = Field(exclude=True)
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64
    )  # no dots: KServe routes
    description: str = ""
    family: Literal["torchvision", "timm", "factory"]
    architecture: str
    weights: str
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    seed: int = 0
    num_classes: int | None = Field(None, ge=1)
    labels: str | None = None
    arguments: dict[str, Any] = {}
    layer: str | None = None
    activation: Literal["softmax", "sigmoid"] = "softmax"
    threshold: float = Field(0.5, gt=0, lt=1)
    precision: Precision | None = None
    preprocess: PreprocessManifest = PreprocessManifest()

    @property
    def file(self) -> str:
        """The manifest's name for messages that callers may see."""
        return self.path.name

    @property
    def weights_file(self) -> Path | None:
        """The weights, where they are a file beside the manifest."""
        is_file = self.weights.endswith(_WEIGHTS_FILES) and not self.weights_url
        return self.path.parent / self.weights if is_file else None

    @property
    def weights_url(self) -> str | None:
        """The weights, where they are fetched from a URL."""
        return self.weights if self.weights.startswith(_URLS) else None

    @property
    def constructor(self) -> dict[str, Any]:
        """What the architecture's constructor is called with."""
        classes = {} if self.num_classes is None else {"num_classes": self.num_classes}
        return {**self.arguments, **classes}

    @property
    def factory(self) -> tuple[Path, str]:
        """Of ``FILE.py:FUNCTION``: where the file is, and the function in it."""
        file, _, function = self.architecture.partition(":")
        return (self.path.parent / file).resolve(), function

    @property
    def is_published(self) -> bool:
        """Whether ``weights`` is a name that the family's library knows."""
        return not (self.weights == "random" or self.weights_file or self.weights_url)

    @property
    def is_local(self) -> bool:
        """Whether loading needs no network."""
        return self.weights == "random" or self.weights_file is not None

    @model_validator(mode="after")
    def _files_stay_in_the_folder(self) -> "Manifest":
        folder = self.path.parent.resolve()
        for name in (self.labels, self.weights if self.weights_file else None):
            if name and not (folder / name).resolve().is_relative_to(folder):
                raise ValueError(f"{name!r} lies outside the folder of the manifest")
        return self

    @model_validator(mode="after")
    def _files_have_a_hash(self) -> "Manifest":
        if (self.weights_file or self.weights_url) and self.sha256 is None:
            raise ValueError("sha256: required for weights from a file or a URL")
        if self.weights_url and not self.weights_url.endswith(_WEIGHTS_FILES):
            raise ValueError(f"weights: a URL must end in {', '.join(_WEIGHTS_FILES)}")
        return self

    def read_labels(self) -> tuple[str, ...] | None:
        """The labels of the label file, or None where the manifest names none.

        A text file has one a line; JSON a list, or an object from index to label.
        """
        if self.labels is None:
            return None
        file = self.path.parent / self.labels
        try:
            text = file.read_text("utf-8")
            if file.suffix == ".json":
                return _json_labels(json.loads(text))
        except (OSError, ValueError, KeyError) as exc:
            raise ManifestError(f"{self.file}: labels: cannot read {file.name}") from exc
        return tuple(line.strip() for line in text.splitlines() if line.strip())

    def version(self) -> str:
        """A content hash: changes with the manifest, its labels, its weights or its code."""
        digest = hashlib.sha256(self.model_dump_json().encode())
        digest.update("\n".join(self.read_labels() or ()).encode())
        if self.family == "factory" and self.factory[0].is_file():
            digest.update(self.factory[0].read_bytes())
        return f"sha256:{digest.hexdigest()}"


def read_manifest(path: Path) -> Manifest:
    """Read one manifest.

    Raises:
        ManifestError: naming the file, and the line or the key.
    """
    try:
        text = path.read_text("utf-8")
        return Manifest.model_validate({**tomllib.loads(text), "path": path})
    except ValidationError as exc:
        raise ManifestError(f"{path}: {_explain(exc, text)}") from exc
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise ManifestError(f"{path}: {exc}") from exc


def read_manifests(folder: Path) -> dict[str, Manifest]:
    """All manifests of a folder by name.

    Raises:
        ManifestError: one cannot be read, two share a name, or there is none.
    """
    manifests: dict[str, Manifest] = {}
    for path in sorted(folder.glob("*.toml")):
        manifest = read_manifest(path)
        if manifest.name in manifests:
            raise ManifestError(
                f"{path}: name {manifest.name!r} is taken by {manifests[manifest.name].path}"
            )
        manifests[manifest.name] = manifest
    if not manifests:
        raise ManifestError(f"{folder}: no model manifests (*.toml) there; see APP_MODELS_DIR")
    return manifests


def find_manifest(folder: Path, name: str) -> Manifest:
    """The manifest of a model.

    Raises:
        ManifestError: a manifest cannot be read, or none has that name.
    """
    manifests = read_manifests(folder)
    if name not in manifests:
        raise ManifestError(
            f"no manifest named {name!r} in {folder}; there are {', '.join(manifests)}"
        )
    return manifests[name]


def _json_labels(content: object) -> tuple[str, ...]:
    if isinstance(content, dict):
        content = [content[str(index)] for index in range(len(content))]
    if not isinstance(content, list) or not all(isinstance(label, str) for label in content):
        raise ValueError("not a list of labels")
    return tuple(content)


def _explain(exc: ValidationError, text: str) -> str:
    return "; ".join(
        _located(f"{'.'.join(map(str, error['loc']))}: {_message(error['msg'])}", text)
        for error in exc.errors()
    )


def _message(message: str) -> str:
    return message.removeprefix("Value error, ")


def _located(problem: str, text: str) -> str:
    """The problem of a key, with the line where the key stands."""
    problem = problem.removeprefix(": ")
    key = problem.partition(":")[0].rpartition(".")[2]
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
            return f"line {number}: {problem}"
    return problem
