"""How a value inside a model is a map: where its two dimensions of space are."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_PREFIX_TOKENS = 16
_ROUNDED = 1.5  # cells: strides round


@dataclass(frozen=True)
class Grid:
    """How a value is a map: ``(h, w)`` cells, behind ``prefix`` tokens or with channels last."""

    height: int
    width: int
    layout: str  # "NCHW", "NHWC" or "NTC"
    prefix: int = 0

    def maps(self, value: Tensor) -> Tensor:
        """The value as [N, C, h, w]."""
        if self.layout == "NCHW":
            return value
        if self.layout == "NTC":
            tokens = value[:, self.prefix :]
            value = tokens.reshape(len(tokens), self.height, self.width, -1)
        return value.permute(0, 3, 1, 2)


def read_grid(value: Tensor, example: Tensor) -> Grid | None:
    """Read a value as a map; None where it has no two dimensions of space."""
    height, width = example.shape[-2:]
    match tuple(value.shape):
        case (1, _, _, _):
            return _image_grid(value.shape, height / width)
        case (1, tokens, _):
            return _token_grid(tokens, height, width)
    return None


def _image_grid(shape: torch.Size, aspect: float) -> Grid | None:
    def mismatch(pair: tuple[int, int]) -> float:
        return abs(math.log(pair[0] / pair[1] / aspect))

    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    layout, (h, w) = min((("NCHW", first), ("NHWC", last)), key=lambda option: mismatch(option[1]))
    like_the_picture = abs(h - w * aspect) <= _ROUNDED  # which [heads, tokens, channels] is not
    return Grid(h, w, layout) if h * w > 1 and like_the_picture else None


def _token_grid(tokens: int, height: int, width: int) -> Grid | None:
    for prefix in range(min(_MAX_PREFIX_TOKENS, tokens - 1)):
        h = round(math.sqrt((tokens - prefix) * height / width))
        w = round(h * width / height)
        if h * w == tokens - prefix and height * w == width * h and h * w > 1:
            return Grid(h, w, "NTC", prefix)
    return None
