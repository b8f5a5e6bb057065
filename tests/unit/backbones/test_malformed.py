"""Manifests and checkpoints that are wrong: one clear line each, soon, and nothing is executed."""

import hashlib
import io
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torchvision import models

from app.backbones.manifest import read_manifest
from app.backbones.model import Loading, Model
from app.errors import SetupError

GOOD = {
    "name": "m", "family": "torchvision", "architecture": "shufflenet_v2_x0_5",
    "weights": "w.safetensors", "num_classes": 4,
}  # fmt: skip


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.file,)


def state() -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = models.shufflenet_v2_x0_5(num_classes=4).state_dict()
    return weights


def saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def huge_header() -> bytes:
    return (2**62).to_bytes(8, "little") + b"{}"


def not_a_net() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return stream.getvalue()


KEYS: list[tuple[str, dict[str, object], str]] = [
    ("a name with dots", {"name": "a.b"}, r"line 1: name"),
    ("an unknown family", {"family": "keras"}, r"line 2: family"),
    ("an unknown key", {"weigths": "x"}, r"line 6: weigths"),
    ("no classes", {"num_classes": 0}, r"line 5: num_classes"),
    ("a hash that is none", {"sha256": "abc"}, r"line 6: sha256"),
    ("a file without a hash", {}, r"sha256: required"),
    ("a URL without a hash", {"weights": "https://x.org/a.pth"}, r"sha256: required"),
    ("a URL of a web page", {"weights": "https://x.org/a", "sha256": "0" * 64}, r"must end in"),
    ("labels outside", {"weights": "random", "labels": "../../etc/passwd"}, r"outside the folder"),
    ("weights outside", {"weights": "/etc/w.pth", "sha256": "0" * 64}, r"outside the folder"),
    ("an unknown activation", {"activation": "tanh"}, r"line 6: activation"),
    ("a threshold of 2", {"threshold": 2}, r"line 6: threshold"),
    ("an unknown precision", {"precision": "int8"}, r"line 6: precision"),
    ("a negative seed", {"weights": "random", "seed": "x"}, r"line 6: seed"),
]

LOADS: list[tuple[str, dict[str, object], str]] = [
    ("an unknown architecture", {"weights": "random", "architecture": "resnet51"}, r"resnet51"),
    ("a detector", {"weights": "random", "architecture": "ssd300_vgg16"}, r"no classification"),
    ("an unknown weights name", {"weights": "IMAGENET22K"}, r"IMAGENET1K_V1"),
    ("missing labels", {"weights": "random", "labels": "none.txt"}, r"labels: cannot read"),
    ("too few labels", {"weights": "random", "labels": "two.txt"}, r"2 labels.* 4 classes"),
    ("labels that are no list", {"weights": "random", "labels": "bad.json"}, r"labels"),
    ("a layer that is none", {"weights": "random", "layer": "conv99"}, r"conv99"),
    ("a factory that is not allowed", {"family": "factory", "weights": "random"}, r"ALLOW"),
    ("a missing file", {"weights": "gone.pth", "sha256": "0" * 64}, r"cannot read gone.pth"),
]

FILES: list[tuple[str, str, Callable[[Path], bytes], str]] = [
    ("an empty file", "w.safetensors", lambda _: b"", r"damaged"),
    ("a truncated file", "w.safetensors", lambda _: save(state())[:-100], r"damaged"),
    ("a header of four exabytes", "w.safetensors", lambda _: huge_header(), r"damaged"),
    ("a truncated checkpoint", "w.pth", lambda _: saved(state())[:-100], r"damaged"),
    ("a picture", "w.pth", lambda _: b"\x89PNG\r\n", r"damaged"),
    ("an archive", "w.pth", lambda _: not_a_net(), r"damaged"),
    ("a bomb", "w.pth", lambda t: saved({"w": Bomb(t)}), r"more than tensors"),
    ("an old bomb", "w.pth", lambda t: pickle.dumps(Bomb(t)), r"more than tensors"),
    ("a whole model", "w.pth", lambda _: saved(models.shufflenet_v2_x0_5()), r"state_dict"),
    ("a list", "w.pth", lambda _: saved([1, 2]), r"no state_dict"),
    ("numbers", "w.pth", lambda _: saved({"epoch": 3}), r"'epoch' is a int, not a tensor"),
    ("a missing tensor", "w.pth", lambda _: saved(dict(list(state().items())[1:])), r"lack 'conv1"),
    (
        "another number of classes", "w.pth",
        lambda _: saved(models.shufflenet_v2_x0_5(num_classes=7).state_dict()),
        r"\[7, 1024\].*\[4, 1024\].*num_classes",
    ),
]  # fmt: skip

FACTORIES = [
    ("a file that is not there", None, r"failed: FileNotFoundError"),
    ("a syntax error", "def make(:", r"failed: SyntaxError"),
    ("a cyclic import", "from m import make", r"failed: (Import|ModuleNotFound)Error"),
    ("an error", "def make(**_): return 1 / 0", r"ZeroDivisionError"),
    ("no model", "def make(**_): return 5", r"returned a int"),
    ("no such function", "x = 1", r"AttributeError"),
]


def write(folder: Path, keys: Mapping[str, object]) -> Path:
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "bad.json").write_text('{"a": 1}')
    lines = [f"{key} = {value!r}" for key, value in {**GOOD, **keys}.items()]
    (folder / "m.toml").write_text("\n".join(lines))
    return folder / "m.toml"


def refusal(manifest: Path, *, allow: bool = False) -> str:
    """The one line with which the model is refused."""
    with pytest.raises(SetupError) as caught:
        Model(read_manifest(manifest), torch.device("cpu"), Loading(allow_factories=allow))
    assert "\n" not in caught.value.detail.strip()
    return caught.value.detail


@pytest.mark.parametrize(("keys", "problem"), [c[1:] for c in KEYS], ids=[c[0] for c in KEYS])
def test_a_wrong_key_is_named_with_file_and_line(
    keys: dict[str, object], problem: str, tmp_path: Path
) -> None:
    told = refusal(write(tmp_path, keys))
    assert told.startswith(f"{tmp_path / 'm.toml'}: ")
    assert re.search(problem, told), told


@pytest.mark.parametrize(("keys", "problem"), [c[1:] for c in LOADS], ids=[c[0] for c in LOADS])
def test_what_cannot_be_loaded_says_why(
    keys: dict[str, object], problem: str, tmp_path: Path
) -> None:
    told = refusal(write(tmp_path, keys))
    assert re.search(problem, told), told


@pytest.mark.parametrize(
    ("name", "content", "problem"), [c[1:] for c in FILES], ids=[c[0] for c in FILES]
)
def test_a_wrong_weights_file_is_refused_and_nothing_in_it_is_run(
    name: str, content: Callable[[Path], bytes], problem: str, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    written = content(trace)
    (tmp_path / name).write_bytes(written)
    sha256 = hashlib.sha256(written).hexdigest()
    told = refusal(write(tmp_path, {"weights": name, "sha256": sha256}))
    assert re.search(problem, told), told
    assert not trace.exists()


@pytest.mark.parametrize(
    ("code", "problem"), [c[1:] for c in FACTORIES], ids=[c[0] for c in FACTORIES]
)
def test_a_factory_that_fails_is_told_as_its_own(
    code: str | None, problem: str, tmp_path: Path
) -> None:
    if code is not None:
        (tmp_path / "m.py").write_text(code)
    keys = {"family": "factory", "architecture": "m.py:make", "weights": "random"}
    told = refusal(write(tmp_path, keys), allow=True)
    assert re.search(problem, told), told


def test_a_factory_outside_the_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    folder = tmp_path / "models"
    folder.mkdir()
    keys = {"family": "factory", "architecture": "../evil.py:make", "weights": "random"}
    assert "in the models folder" in refusal(write(folder, keys), allow=True)
    assert not (tmp_path / "trace").exists()
