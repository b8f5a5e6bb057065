"""Superpixels, and pictures with some of them hidden: what LIME and KernelSHAP share."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SEGMENTS = 50  # about
_COMPACTNESS = 10.0


def superpixels(pixels: NDArray[np.uint8]) -> Tensor:
    """SLIC (Achanta et al. 2012), as scikit-image has it.

    Args:
        pixels: [H, W, 3].

    Returns:
        [H, W]: the number of each pixel's segment, from 0, without gaps.
    """
    from skimage.segmentation import slic  # half a second: not at every start

    found = slic(pixels, n_segments=_SEGMENTS, compactness=_COMPACTNESS, start_label=0)
    _, numbered = np.unique(found, return_inverse=True)
    return torch.from_numpy(numbered.reshape(found.shape))


def hide(x: Tensor, segments: Tensor, kept: Tensor) -> Tensor:
    """The picture with some segments greyed out: in the mean colour of all pictures.

    Their own mean colour, which some implementations take, would leave an object of one colour as
    it is.

    Args:
        x: [1, 3, H, W], normalised.
        segments: [H, W].
        kept: [m, segments], 1 for those that stay.

    Returns:
        [m, 3, H, W].
    """
    shown = kept.to(x.dtype)[:, segments.flatten()]  # [m, HW]
    return x * shown.view(len(kept), 1, *x.shape[2:])
