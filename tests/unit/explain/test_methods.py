"""The methods, against plain NumPy."""

import numpy as np
import torch

from app.explain.gradcam import compute
from app.explain.registry import methods


def test_every_method_file_is_found_under_its_own_name() -> None:
    found = methods()
    assert "gradcam" in found
    for name, method in found.items():
        assert method.info.name == name
        assert method.compute.__module__ == f"app.explain.{name}"


def test_gradcam_weighs_channels_by_their_mean_gradient() -> None:
    rng = np.random.default_rng(0)
    activations, gradients = rng.normal(size=(2, 3, 5, 4, 6)).astype(np.float32)
    expected = (gradients.mean(axis=(2, 3))[:, :, None, None] * activations).sum(axis=1)
    ours = compute(torch.from_numpy(activations), torch.from_numpy(gradients))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert ours.min() < 0  # signed: the ReLU belongs to the picture
