"""The network of the demo models: training it on two cores, and its Grad-CAM in closed form."""

import time
from pathlib import Path

import numpy as np
import torch
from demo_data import (
    INPUT,
    Pictures,
    Recipe,
    Stage,
    Targets,
    as_input,
    cut,
    dominant_only,
    shares_of,
    shrunk,
)
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torchvision.models import get_model

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BATCH = 64


def train(recipe: Recipe, pictures: Pictures, targets: Targets, threads: int = 2) -> nn.Module:
    """Train stage by stage, small pictures first; prints one line an epoch."""
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(threads)
    network = _build(recipe).to(memory_format=torch.channels_last)
    for stage in recipe.stages:
        _run_stage(network, pictures, targets, stage)
    centre_head(network.get_submodule("fc"))
    return network.eval()


def _build(recipe: Recipe) -> nn.Module:
    network: nn.Module = get_model(
        recipe.architecture, weights=None, num_classes=len(recipe.labels)
    )
    return network


def _run_stage(network: nn.Module, pictures: Pictures, targets: Targets, stage: Stage) -> None:
    batches = _Batches(pictures, targets, stage)
    steps = stage.epochs * (len(pictures) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), lr=stage.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, stage.rate, total_steps=steps)
    network.train()
    for epoch in range(stage.epochs):
        began, losses = time.perf_counter(), []
        order = torch.randperm(len(pictures)).numpy()
        for start in range(0, len(order) - BATCH + 1, BATCH):
            images, labels = batches.take(order[start : start + BATCH])
            x = _augmented(torch.from_numpy(images), stage, schedule.last_epoch / steps)
            loss = cross_entropy(network(x), torch.from_numpy(labels))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        spent = time.perf_counter() - began
        print(
            f"  {stage.side} px  epoch {epoch + 1}/{stage.epochs}  "
            f"loss {np.mean(losses):.4f}  {spent:.0f} s",
            flush=True,
        )


class _Batches:
    """Hands out pictures of a stage's size with their targets, perhaps half of them windows."""

    def __init__(self, pictures: Pictures, targets: Targets, stage: Stage) -> None:
        self._full, self._targets, self._stage = pictures, targets, stage
        self._small = shrunk(pictures, stage.side)
        self._rng = np.random.default_rng(stage.side)

    def take(self, chosen: NDArray[np.int64]) -> tuple[Pictures, Targets]:
        images, labels = self._small[chosen], self._targets[chosen]
        if self._stage.fade:
            return dominant_only(images, labels)
        if self._stage.crops:
            self._cut_half(images, labels, chosen[::2])
        return images, labels

    def _cut_half(self, images: Pictures, labels: Targets, chosen: NDArray[np.int64]) -> None:
        images[::2] = cut(self._rng, self._full[chosen], self._stage.side)
        labels[::2] = shares_of(images[::2], labels.shape[1])


def _augmented(batch: Tensor, stage: Stage, done: float) -> Tensor:
    """Fade in, turn, mirror, recolour and relight a batch `uint8 [n, s, s, 4]`."""
    layers = batch.permute(0, 3, 1, 2)  # [n, 4, s, s]
    pictures, silhouettes = layers[:, :3].float() / 255, (layers[:, 3:] > 0).float()
    shown = ramp(done, *stage.fade) if stage.fade else 1.0
    x = pictures * shown + silhouettes * (1 - shown)  # [n, 3, s, s]
    x = torch.rot90(x, int(torch.randint(4, ())), (2, 3))
    half = len(x) // 2
    x = torch.cat([x[:half], x[half:].flip(3)])
    if stage.swap_colours:
        x = torch.cat([x[i : i + 8, torch.randperm(3)] for i in range(0, len(x), 8)])
    gain = torch.empty(len(x), 1, 1, 1).uniform_(0.8, 1.2)
    return normalised((x * gain).clamp(0, 1))


def ramp(at: float, begin: float, end: float) -> float:
    """0 before ``begin``, 1 after ``end``."""
    return min(max((at - begin) / (end - begin), 0.0), 1.0)


def normalised(x: Tensor) -> Tensor:
    """Pictures [n, 3, s, s] in [0, 1] as the network takes them."""
    mean, std = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return ((x - mean) / std).contiguous(memory_format=torch.channels_last)


def centre_head(head: nn.Module) -> None:
    """Subtract from every class what all share: the softmax never sees it, a class map would."""
    with torch.no_grad():
        for weights in head.parameters():
            weights.copy_(weights - weights.mean(dim=0, keepdim=True))


def save(network: nn.Module, path: Path) -> None:
    """Write the plain state dict as safetensors."""
    state = network.state_dict().items()
    save_file({name: tensor.detach().contiguous() for name, tensor in state}, path)
    path.chmod(0o644)  # the library makes it private; a server may run as someone else


def load(recipe: Recipe, path: Path) -> nn.Module:
    """Rebuild a trained network from its file."""
    network = _build(recipe)
    network.load_state_dict(load_file(path))
    return network.eval()


@torch.inference_mode()
def explain(network: nn.Module, image: Pictures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores `[classes]` and signed Grad-CAM grids `[classes, 7, 7]` of one picture `[H, W, 3]`.

    Behind global average pooling and a linear head Grad-CAM is `W[c]·A / (h·w)`.
    """
    x = normalised(torch.from_numpy(as_input(image)[None].copy()).permute(0, 3, 1, 2) / 255)
    for name in ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"):
        x = network.get_submodule(name)(x)  # [1, C, h, w] in the end
    head = network.get_submodule("fc")
    scores = head(x.mean(dim=(2, 3))).softmax(dim=1)[0]
    grids = torch.einsum("kc,chw->khw", head.get_parameter("weight"), x[0]) / x[0, 0].numel()
    return scores.numpy(), grids.numpy()


def on_picture(grid: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """The positive part of a grid laid over a picture of `size` (H, W); 0 outside the crop."""
    height, width = size
    side = min(size)
    positive = torch.from_numpy(grid).clamp(min=0)[None, None]
    fine = interpolate(positive, (INPUT, INPUT), mode="bilinear", align_corners=False)[0, 0]
    scaled = Image.fromarray(fine.numpy()).resize((side, side), Image.Resampling.BILINEAR)
    top, left = (height - side) // 2, (width - side) // 2
    full = np.zeros(size, dtype=np.float32)
    full[top : top + side, left : left + side] = np.asarray(scaled)
    return full
