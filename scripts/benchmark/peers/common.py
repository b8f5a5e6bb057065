"""What all peers share, so that they do the same work: model, input, picture and answer.

It runs in the peers' own environments: nothing of camserve is imported here.
"""

import base64
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import models

Map = NDArray[np.float32]  # [h, w] in [0, 1]

TARGET_LAYERS = {
    "resnet50": "layer4",
    "mobilenet_v3_small": "features.12",
    "efficientnet_b0": "features.8",
    "vit_b_16": "encoder.layers.encoder_layer_11.ln_1",
}
TOP_K, LONGEST, ALPHA = 5, 640, 0.6
_RESIZE, _CROP = 232, 224
_INFERNO = (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
_OPACITY = (np.arange(256) * ALPHA + 0.5).astype(np.uint8)

# Resize 232, centre crop 224, ImageNet's mean and deviation: as torchvision's documentation has it.
transform = models.ResNet50_Weights.IMAGENET1K_V2.transforms()


@dataclass(frozen=True)
class Tuning:
    """A peer's settings, as found by ``scripts/bench --sweep``; the environment overrides them."""

    workers: int
    threads: int
    batch: int = 1
    wait_ms: int = 0

    @classmethod
    def read(cls, default: "Tuning") -> "Tuning":
        """The default, or what the sweep wants to try."""
        text = os.environ.get("BENCH_TUNING")
        return cls(*(int(number) for number in text.split(","))) if text else default


def model_name() -> str:
    return os.environ["BENCH_MODEL"]


def port() -> int:
    return int(os.environ["BENCH_PORT"])


def load_model(threads: int) -> nn.Module:
    """The model with the weights that all servers of a run share; sets this process's threads."""
    torch.set_num_threads(threads)
    model: nn.Module = models.get_model(model_name(), weights=None)
    model.load_state_dict(
        load_file(Path(os.environ["BENCH_MODELS"]) / f"{model_name()}.safetensors")
    )
    return model.eval()


def target_layer() -> str:
    return TARGET_LAYERS[model_name()]


def reshape_tokens(tokens: Tensor) -> Tensor:
    """A ViT's [N, 1 + T, C] → [N, C, h, w]."""
    side = round((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)


def reshape() -> Any:  # noqa: ANN401 - both libraries take a function or None
    return reshape_tokens if model_name().startswith("vit") else None


def decode(body: bytes) -> Image.Image:
    return Image.open(BytesIO(body)).convert("RGB")


def prepare(picture: Image.Image) -> Tensor:
    """[3, 224, 224]."""
    tensor: Tensor = transform(picture)
    return tensor


def top(logits: Tensor) -> list[dict[str, float]]:
    """A row's highest scores; [classes]."""
    scores, indices = logits.detach().softmax(0).topk(TOP_K)
    return [
        {"index": i, "score": s} for i, s in zip(indices.tolist(), scores.tolist(), strict=True)
    ]


def explained(
    predictions: list[dict[str, float]], cam: Map, picture: Image.Image
) -> dict[str, object]:
    """The answer with the overlay."""
    encoded = base64.b64encode(overlay(picture, cam)).decode()
    return {"predictions": predictions, "overlay": encoded}


def overlay(picture: Image.Image, cam: Map) -> bytes:
    """PNG; the map lies on the centre crop that the model saw."""
    scale = min(1.0, LONGEST / max(picture.size))
    size = round(picture.width * scale), round(picture.height * scale)
    base = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    side = round(min(size) * _CROP / _RESIZE)
    seen = Image.fromarray(cam).resize((side, side), Image.Resampling.BILINEAR)
    levels = (np.clip(np.asarray(seen), 0, 1) * 255 + 0.5).astype(np.uint8)
    corner = (size[0] - side) // 2, (size[1] - side) // 2
    base.paste(Image.fromarray(_INFERNO[levels]), corner, Image.fromarray(_OPACITY[levels]))
    out = BytesIO()
    base.save(out, "PNG", compress_level=1)  # Pillow's default takes longer
    return out.getvalue()
