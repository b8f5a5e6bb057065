"""Pictures become what a model takes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from app.backbones.cores import one_core
from app.types import Pixels, Preprocess

_EXAMPLES = 4


class Inputs:
    """Makes the inputs of one model, on its device.

    Args:
        spec: how pictures are cropped and normalised.
        device: of the model.
    """

    def __init__(self, spec: Preprocess, device: torch.device) -> None:
        self._crop = spec.crop
        self._device = device
        # Of each number in a row of pixels: an eighth of the time that three numbers take, which
        # come round after every pixel.
        width = spec.crop[1]
        self._mean = torch.tensor(spec.mean, device=device).repeat(width) * 255
        self._scale = 1 / (torch.tensor(spec.std, device=device).repeat(width) * 255)

    def __call__(self, pictures: Sequence[Pixels]) -> Tensor:
        """Pictures, each uint8 [H, W, 3] → float32 [N, 3, H, W], normalised."""
        return self.normalize(self.stack(pictures))

    @one_core()
    def stack(self, pictures: Sequence[Pixels]) -> Tensor:
        """Pictures, each uint8 [H, W, 3] → [N, 3, H, W], channels last, on the device."""
        tensors = [_tensor(picture) for picture in pictures]
        if len(tensors) == 1 and self._device.type == "cpu":
            return tensors[0].unsqueeze(0).permute(0, 3, 1, 2)  # nobody writes to it
        pinned = self._device.type == "cuda"  # a GPU then fetches them while this thread goes on
        shape = (len(pictures), *pictures[0].shape)
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        # Not by NumPy: it gives Python's lock away for each picture, and has to wait for it again.
        torch.stack(tensors, out=batch)
        return batch.to(self._device, non_blocking=True).permute(0, 3, 1, 2)

    @one_core()
    def normalize(self, batch: Tensor) -> Tensor:
        """Stacked pictures → what the network takes, float32."""
        pixels = batch.permute(0, 2, 3, 1)
        rows = pixels.flatten(2).to(torch.float32).sub_(self._mean).mul_(self._scale)
        return rows.view(pixels.shape).permute(0, 3, 1, 2)

    def examples(self) -> Tensor:
        """Fixed pictures, stacked; neither flat nor noise: enough to make every class respond."""
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(_EXAMPLES, 3, 7, 7, generator=generator)
        pictures = interpolate(coarse, self._crop, mode="bicubic").clamp(0, 1)
        pixels = (pictures.permute(0, 2, 3, 1) * 255).to(torch.uint8)
        return self.stack(list(pixels.numpy()))


def _tensor(picture: Pixels) -> Tensor:
    """The same memory, unless that is read-only, which torch does not know."""
    return torch.from_numpy(picture if picture.flags.writeable else picture.copy())
