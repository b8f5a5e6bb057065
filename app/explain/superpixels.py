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
    """The picture with some segments painted in their mean colour.

    Args:
        x: [1, 3, H, W].
        segments: [H, W].
        kept: [m, segments], 1 for those that stay.

    Returns:
        [m, 3, H, W].
    """
    flat, where = x[0].flatten(1), segments.flatten()  # [3, HW], [HW]
    count = kept.shape[1]
    sums = x.new_zeros(3, count).index_add_(1, where, flat)
    sizes = torch.bincount(where, minlength=count).to(x.dtype)
    painted = (sums / sizes)[:, where].view_as(x)
    shown = kept.to(x.dtype)[:, where].view(len(kept), 1, *x.shape[2:])
    return torch.lerp(painted, x, shown)
