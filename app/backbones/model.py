"""A classifier that is loaded, cut, checked and ready to serve."""

from collections.abc import Sequence
from functools import cached_property
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn

from app.backbones import torchvision
from app.backbones.cut import Cut, Cutter
from app.backbones.manifest import Manifest
from app.backbones.rewire import attend, guided, has_attention, has_relu
from app.backbones.selfcheck import linear_after_pooling, self_check
from app.backbones.weights import load_weights
from app.errors import InvalidOption, ModelCheckFailed
from app.types import LayerInfo, ModelInfo, Pixels, Preprocess


class Model:
    """A resident model. Frozen parameters, eval mode, no hooks: safe to use from any thread.

    Args:
        manifest: what to load.
        device: where it lives.
        fused: whether its trunk is rewritten for speed, where the device has a way to; the weights
            must not change afterwards.

    Raises:
        ManifestError: the manifest asks for what cannot be.
        ModelCheckFailed: the weights are not to be had, or the model fails its self-check.
    """

    def __init__(self, manifest: Manifest, device: torch.device, *, fused: bool = True) -> None:
        module = torchvision.build(manifest)
        load_weights(manifest, module)
        self.module: nn.Module = (
            module.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        )
        self.device = device
        self.preprocess: Preprocess = torchvision.preprocess(manifest)
        self._mean = torch.tensor(self.preprocess.mean, device=device).view(1, 3, 1, 1) * 255
        self._scale = 1 / (torch.tensor(self.preprocess.std, device=device).view(1, 3, 1, 1) * 255)
        example = self._example()
        self._cutter = Cutter(self.module, example, fused=fused)
        self._cuts: dict[tuple[str, ...], Cut] = {}
        self._linear: dict[tuple[str, ...], Tensor | None] = {}
        self._lock = Lock()
        self.layer = self._layer(manifest)
        num_classes = self_check(self.module, self.cut(), example)
        self.labels = torchvision.labels(manifest, num_classes)
        self.info = self._describe(manifest)

    def cut(self, *layers: str) -> Cut:
        """The cut at some layers, or the model's own; made once and kept.

        Raises:
            InvalidOption: there is no such layer.
        """
        with self._lock:
            if layers not in self._cuts:
                try:
                    self._cuts[layers] = self._cutter.cut(*(layers or (self.layer,)))
                except KeyError as exc:
                    raise InvalidOption(
                        f"layer: {exc.args[0]!r} is no layer of this model that holds a map"
                    ) from exc
            return self._cuts[layers]

    @cached_property
    def provides(self) -> frozenset[str]:
        """What methods may need of this model: the names of their parameters."""
        provided = {"activations", "gradients", "inputs", "input_gradients"}
        if has_relu(self._cutter.module):
            provided.add("guided_gradients")
        if has_attention(self._cutter.module) and self.cut().grid.prefix:
            provided |= {"attention", "attention_gradients"}
        return frozenset(provided)

    def linear(self, cut: Cut) -> Tensor | None:
        """The head's weight, [classes, C], where that is average pooling and one linear layer."""
        if cut.layers not in self._linear:
            self._linear[cut.layers] = linear_after_pooling(cut) if cut.is_clean else None
        return self._linear[cut.layers]

    def guided(self, x: Tensor) -> Tensor:
        """The logits, [N, classes], through ReLUs that let no negative gradient pass."""
        return guided(self._cutter.module, x)

    def attend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The logits, and the attention of each block, [N, heads, T, T]."""
        return attend(self._cutter.module, x)

    def normalize(self, pictures: Sequence[Pixels]) -> Tensor:
        """Pictures, each uint8 [H, W, 3] → float32 [N, 3, H, W], channels last, on the device."""
        batch = torch.from_numpy(np.stack(pictures)).to(self.device)
        return (batch.permute(0, 3, 1, 2).to(torch.float32) - self._mean) * self._scale

    def _layer(self, manifest: Manifest) -> str:
        if manifest.layer is None:
            return self._cutter.default
        try:
            return self._cutter.cut(manifest.layer).layer
        except KeyError as exc:
            raise ModelCheckFailed(
                f"{manifest.name}: layer {manifest.layer!r} is no layer that holds a map; there are"
                f" {', '.join(self._cutter.layers)}"
            ) from exc

    def _example(self) -> Tensor:
        """A fixed picture, neither flat nor noise: enough to make every class respond."""
        height, width = self.preprocess.crop
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(1, 3, 7, 7, generator=generator)
        picture = nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
        pixels = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8)
        return self.normalize([pixels.numpy()])

    def _describe(self, manifest: Manifest) -> ModelInfo:
        return ModelInfo(
            name=manifest.name,
            state="ready",
            description=manifest.description,
            family=manifest.family,
            architecture=manifest.architecture,
            version=manifest.version(),
            labels=self.labels,
            preprocess=self.preprocess,
            layer=self.layer,
            layers=tuple(
                LayerInfo(
                    name=name,
                    grid=(grid.height, grid.width),
                    aliases=self._cutter.aliases(name),
                )
                for name, grid in self._cutter.layers.items()
            ),
        )
