"""Preprocessing of models that publish none of their own."""

from typing import Any


def imagenet(side: int | tuple[int, int]) -> dict[str, Any]:
    """The whole picture at that size, with ImageNet's mean and deviation."""
    return {
        "resize": side,
        "crop": side,
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
