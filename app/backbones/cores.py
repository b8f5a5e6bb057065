"""The cores of a worker, and how many of them a step takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["alone", "beside"]


@dataclass(frozen=True, slots=True)
class Cores:
    """Those of a worker: ``all`` for a row alone, or dealt out to so many drivers' batches."""

    all: int
    drivers: int

    @property
    def share(self) -> int:
        """That a batch has beside others."""
        return max(1, self.all // self.drivers)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of programs that are worth having."""
        return ("alone", "beside") if self.all > self.share else ("beside",)

    def kind(self, rows: int, threads: int) -> Kind:
        """Which program computes so many rows by so many cores."""
        return "alone" if rows == 1 and threads > self.share else "beside"


@contextmanager
def one_core() -> Iterator[None]:
    """A light step: to wake another core takes longer than it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
