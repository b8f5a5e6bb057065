"""Tensors for a model: from a hashed file beside its manifest, or from a URL.

Files of torch.save are read with ``weights_only``: nothing in them is ever run.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from app.backbones.fetch import fetch
from app.backbones.manifest import Manifest
from app.errors import ModelCheckFailed

StateDict = dict[str, Tensor]

# What training loops and wrappers put around the tensors and before their names.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "module")
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.")
_COUNTER = ".num_batches_tracked"  # of batch norms; older files lack it, and nothing reads it


def load_weights(manifest: Manifest, model: nn.Module) -> None:
    """Put the tensors of the manifest's file or URL into a new model; else leave it as it is.

    Raises:
        ModelCheckFailed: the weights cannot be had, or are not those of this model.
    """
    file = manifest.weights_file
    if manifest.weights_url is not None:
        file = fetch(manifest.weights_url, str(manifest.sha256))
    if file is None:
        return
    try:
        state = read_state(file, manifest.sha256)
    except ModelCheckFailed as exc:
        raise ModelCheckFailed(f"{manifest.name}: {exc.detail}") from exc
    wanted = model.state_dict()
    state = _without_aux(plain_names(state, wanted), wanted)
    _check_shapes(manifest, state, wanted)
    model.load_state_dict(wanted | state)


def read_state(file: Path, sha256: str | None = None) -> StateDict:
    """The tensors of a file by their names, free of what a training loop wrapped around them.

    Args:
        file: ``.safetensors``, or what ``torch.save`` wrote.
        sha256: the file must have it, where given.

    Raises:
        ModelCheckFailed: it cannot be read, is another file, or holds more than tensors.
    """
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise ModelCheckFailed(f"cannot read {file.name}: {exc.strerror}") from exc
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ModelCheckFailed(f"{file.name} has sha256 {found}, its manifest says {sha256}")
    if file.suffix == ".safetensors":
        try:
            return load(content)
        except SafetensorError as exc:
            raise ModelCheckFailed(f"{file.name} is damaged: {exc}") from exc
    return _tensors(file.name, _unwrapped(_unpickled(file.name, content)))


def plain_names(state: StateDict, wanted: Iterable[str]) -> StateDict:
    """Names without the prefix that all of them have and the model's have not."""
    wanted = set(wanted)
    while not wanted.intersection(state):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None or not state:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _unpickled(name: str, content: bytes) -> object:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as exc:
        raise ModelCheckFailed(
            f"{name} is damaged, or holds more than tensors (nothing in it was run): save"
            " model.state_dict() alone, by torch.save or as .safetensors"
        ) from exc


def _unwrapped(content: object) -> object:
    while isinstance(content, Mapping):
        inner = next(
            (content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None
        )
        if inner is None:
            break
        content = inner
    return content


def _tensors(name: str, content: object) -> StateDict:
    if not isinstance(content, Mapping) or not content:
        raise ModelCheckFailed(f"{name} holds no state_dict: save model.state_dict()")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ModelCheckFailed(f"{name}: {key!r} is a {type(value).__name__}, not a tensor")
    return {str(key): value for key, value in content.items()}


def _without_aux(state: StateDict, wanted: Iterable[str]) -> StateDict:
    """Inception's auxiliary classifiers serve training alone."""
    wanted = set(wanted)
    return {
        name: tensor
        for name, tensor in state.items()
        if name in wanted or not name.lower().startswith("aux")
    }


def _check_shapes(manifest: Manifest, ours: StateDict, wanted: StateDict) -> None:
    """Name the first tensor that does not fit, in words that say what to change."""
    for name, tensor in wanted.items():
        if name not in ours:
            if name.endswith(_COUNTER):
                continue
            raise ModelCheckFailed(
                f"{manifest.name}: the weights lack {name!r}; is architecture ="
                f" {manifest.architecture!r} right?"
            )
        if ours[name].shape != tensor.shape:
            raise ModelCheckFailed(
                f"{manifest.name}: {name!r} is {list(ours[name].shape)} in the weights and"
                f" {list(tensor.shape)} in the model; are architecture and num_classes right?"
            )
    if unknown := sorted(ours.keys() - wanted.keys()):
        raise ModelCheckFailed(
            f"{manifest.name}: the weights have {unknown[0]!r}, which"
            f" {manifest.architecture} has not"
        )
