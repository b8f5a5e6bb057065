"""The small transformer among the demo models: training it on two cores.

Each patch is asked, too, what lies on it, which says far more of a picture than one label does;
that second head is thrown away in the end.
"""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from demo_data import Pictures, Recipe, Targets, shrunk
from demo_network import centre_head, normalised, ramp
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, one_hot
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import ConvStemConfig

SIDE, PATCH, WIDTH = 128, 16, 128
LAYER = "encoder.layers.encoder_layer_5.ln_1"  # Grad-CAM points better there than a block before
# Convolutions first (Xiao et al. 2021, https://arxiv.org/abs/2106.14881): it learns much sooner.
STEM = [{"out_channels": c, "kernel_size": 3, "stride": 2} for c in (24, 48, 96, WIDTH)]
ARGUMENTS: dict[str, Any] = {
    "image_size": SIDE,
    "patch_size": PATCH,
    "num_layers": 6,
    "num_heads": 4,
    "hidden_dim": WIDTH,
    "mlp_dim": 2 * WIDTH,
    "conv_stem_configs": STEM,
}

BATCH = 64
STEPS = 3000
RATE = 1.5e-3
WARM_UP = 0.03  # of the steps
FADE = (0.05, 0.35)  # from silhouettes to pictures, as the other models (demo_data.Stage)
SHIFT = PATCH // 2  # objects lie anywhere on the patches' grid


@dataclass(frozen=True)
class _Batch:
    x: Tensor  # [n, 3, s, s]
    targets: Tensor  # [n, classes]
    patches: Tensor  # [n, patches, 1 + classes]: shares of a patch's area; first the ground


def train_transformer(
    recipe: Recipe, pictures: Pictures, targets: Targets, threads: int = 2
) -> nn.Module:
    """Train for ``STEPS`` batches; prints a line now and then."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(threads)
    small, rng = shrunk(pictures, SIDE), np.random.default_rng(recipe.seed)
    classes = len(recipe.labels)
    network = build_transformer(classes)
    nn.init.normal_(network.get_submodule("heads.head").get_parameter("weight"), 0, 0.02)
    per_patch = nn.Linear(WIDTH, 1 + classes)
    parameters = [*network.parameters(), *per_patch.parameters()]
    optimiser = torch.optim.AdamW(parameters, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    began = time.perf_counter()
    for step in range(STEPS):
        done = step / STEPS
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, done / WARM_UP) * (1 + np.cos(np.pi * done)) / 2
        chosen = rng.choice(len(small), BATCH, replace=False)
        loss = _loss(network, per_patch, _batch(small[chosen], targets[chosen], done))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 100 == 0:
            spent = time.perf_counter() - began
            print(f"  step {step}/{STEPS}  loss {loss.item():.3f}  {spent:.0f} s", flush=True)
    centre_head(network.get_submodule("heads"))
    return network.eval()


def build_transformer(classes: int) -> nn.Module:
    """A new one."""
    stem = [ConvStemConfig(**layer) for layer in STEM]
    arguments = {**ARGUMENTS, "conv_stem_configs": stem}
    network: nn.Module = VisionTransformer(**arguments, num_classes=classes)
    return network


def _loss(network: nn.Module, per_patch: nn.Module, batch: _Batch) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        tokens = _tokens(network, batch.x)  # [n, 1 + patches, WIDTH]
        logits, lying = network.get_submodule("heads")(tokens[:, 0]), per_patch(tokens[:, 1:])
    whole = cross_entropy(logits.float(), batch.targets)
    return whole + cross_entropy(lying.float().flatten(0, 1), batch.patches.flatten(0, 1))


def _tokens(network: nn.Module, x: Tensor) -> Tensor:
    patches = network._process_input(x)  # type: ignore[operator]  # noqa: SLF001 - as its forward
    first = network.get_parameter("class_token").expand(len(x), -1, -1)
    tokens: Tensor = network.get_submodule("encoder")(torch.cat([first, patches], dim=1))
    return tokens


def _batch(pictures: Pictures, targets: Targets, done: float) -> _Batch:
    """Turn, mirror, shift, fade in, recolour and relight; the classes' layer goes along."""
    layers = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()  # [n, 4, s, s]
    layers = torch.rot90(layers, int(torch.randint(4, ())), (2, 3))
    half = len(layers) // 2
    layers = torch.cat([layers[:half], layers[half:].flip(3)])
    dy, dx = torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist()
    layers = torch.roll(layers, (dy, dx), (2, 3))
    lying, shown = layers[:, 3], ramp(done, *FADE)
    x = layers[:, :3] / 255 * shown + (lying > 0).float()[:, None] * (1 - shown)
    x = torch.cat([x[i : i + 8, torch.randperm(3)] for i in range(0, len(x), 8)])
    gain = torch.empty(len(x), 1, 1, 1).uniform_(0.8, 1.2)
    coarse = one_hot(lying[:, ::2, ::2].long(), 1 + targets.shape[1])  # [n, s/2, s/2, 1 + classes]
    shares = avg_pool2d(coarse.permute(0, 3, 1, 2).float(), PATCH // 2).flatten(2).transpose(1, 2)
    return _Batch(normalised((x * gain).clamp(0, 1)), torch.from_numpy(targets), shares)
