"""These need an NVIDIA GPU: ``scripts/test --gpu``."""

import torch

if not torch.cuda.is_available():
    raise RuntimeError("there is no GPU here: run these where there is one")
