"""These need an NVIDIA GPU: ``scripts/test --gpu``."""

import os

import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

if not torch.cuda.is_available():
    raise RuntimeError("there is no GPU here: run these where there is one")
