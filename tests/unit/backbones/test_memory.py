"""What weights leave behind when they go."""

import os
import subprocess
import sys

import pytest

from app.engine.environment import environment
from tests.server import ROOT

# Weights, each with something behind it that stays: what is freed has no end to be cut off at.
REPLACE = """
import sys
import torch
from contextlib import nullcontext
from app.backbones.memory import _STATUS, _field, weights_apart

def held():
    return _field(_STATUS, "VmRSS") // 10**6

with weights_apart() if sys.argv[1] == "apart" else nullcontext():
    weights, others = [], []
    for _ in range(50):
        weights.append(torch.ones(500_000))
        others.append(torch.ones(1000))
before = held()
weights.clear()
print(before - held())
batch = torch.ones(500_000)
kept = held()
del batch
print(kept - held())
"""


@pytest.mark.parametrize(("how", "given_back"), [("apart", 100), ("together", 0)])
def test_weights_that_are_apart_are_given_back_when_they_go_and_batches_are_kept(
    how: str, given_back: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REPLACE, how],
        cwd=ROOT,
        env=environment("worker"),
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    weights, batch = map(int, done.stdout.split())
    assert weights == pytest.approx(given_back, abs=15)  # some fit into what is free
    assert batch == 0


@pytest.mark.parametrize("given", [{}, {"MALLOC_MMAP_THRESHOLD_": "0x10000"}])
def test_who_did_not_ask_to_keep_so_much_memory_is_left_alone(given: dict[str, str]) -> None:
    code = """
from unittest import mock
import ctypes
from app.backbones.memory import weights_apart
with mock.patch.object(ctypes, "CDLL") as library, weights_apart():
    pass
library.return_value.mallopt.assert_not_called()
"""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain | given, check=True, timeout=120
    )
