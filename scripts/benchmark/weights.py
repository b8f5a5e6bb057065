"""One set of weights for all servers: random, of a fixed seed, with batch norms that fit them."""

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from benchmark.pictures import SIZES, scene

NAMES = ("resnet50", "mobilenet_v3_small", "efficientnet_b0", "vit_b_16")
_MANIFEST = """name = "{name}"
family = "torchvision"
architecture = "{name}"
weights = "{file}"
sha256 = "{sha256}"
[preprocess]
resize = 232
crop = 224
interpolation = "bilinear"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"""
_PICTURES = 8


def make_models(folder: Path, names: tuple[str, ...]) -> None:
    """A .safetensors file and camserve's manifest for each; made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if not (folder / f"{name}.toml").exists():
            _make(folder, name)


def _make(folder: Path, name: str) -> None:
    file = folder / f"{name}.safetensors"
    save_file(fitted(name).state_dict(), file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    text = _MANIFEST.format(name=name, file=file.name, sha256=digest)
    (folder / f"{name}.toml").write_text(text)


def fitted(name: str) -> nn.Module:
    """The architecture as it is drawn; then its batch norms see a few pictures.

    Without that, what leaves a deep network is as good as constant, and scores tell nothing.
    torchvision's ViT comes with an all-zero classifier, through which no gradient passes.
    """
    torch.manual_seed(0)
    model: nn.Module = models.get_model(name, weights=None)
    for weight in model.parameters():
        if weight.ndim > 1 and not weight.any():
            nn.init.normal_(weight, 0, 0.02)
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the plain mean of what it sees
        norm.train()
    transform = models.ResNet50_Weights.IMAGENET1K_V2.transforms()
    pictures = [transform(scene(*SIZES["0.24"], 100 + seed)) for seed in range(_PICTURES)]
    with torch.no_grad():
        model(torch.stack(pictures))
    return model.eval()
