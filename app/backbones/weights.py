"""Tensors for a model: from a hashed safetensors file, or from torchvision's published weights."""

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from app.backbones import torchvision
from app.backbones.manifest import Manifest
from app.backbones.torchvision import StateDict
from app.errors import ModelCheckFailed


def load_weights(manifest: Manifest, model: nn.Module) -> None:
    """Put the manifest's weights into a new model; ``random`` keeps what it was born with.

    Raises:
        ModelCheckFailed: the weights cannot be had, or are not those of this model.
    """
    if manifest.weights == "random":
        return
    if manifest.weights_file is not None:
        state = _read(manifest, manifest.weights_file)
    else:
        state = torchvision.download(manifest, torchvision.published_weights(manifest).url)
    _check_shapes(manifest, state, model.state_dict())
    model.load_state_dict(state)


def _read(manifest: Manifest, file: Path) -> StateDict:
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise ModelCheckFailed(f"{manifest.name}: cannot read {file.name}: {exc.strerror}") from exc
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.sha256:
        raise ModelCheckFailed(
            f"{manifest.name}: {file.name} has sha256 {found}, its manifest says {manifest.sha256}"
        )
    try:
        return load(content)
    except SafetensorError as exc:
        raise ModelCheckFailed(f"{manifest.name}: {file.name} is damaged: {exc}") from exc


def _check_shapes(manifest: Manifest, ours: StateDict, wanted: StateDict) -> None:
    """Name the first tensor that does not fit, in words that say what to change."""
    for name, tensor in wanted.items():
        if name not in ours:
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
