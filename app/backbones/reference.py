"""What a model answers as it was built: every faster form of it is held to that."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from app.errors import ModelCheckFailed
from app.types import Precision

_SCORE_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """Fixed pictures, and the logits of the whole model for them.

    Attributes:
        pictures: as the network takes them, [N, 3, H, W].
        logits: of the model as it was built, [N, classes].
        scores: what the model makes of logits.
        precision: in which its trunks compute.
    """

    pictures: Tensor
    logits: Tensor
    scores: Callable[[Tensor], Tensor]
    precision: Precision

    def example(self, rows: int) -> Tensor:
        """So many pictures, [rows, 3, H, W], channels last; they come round."""
        return _rows(self.pictures, rows).contiguous(memory_format=torch.channels_last)

    def check(self, what: str, logits: Tensor) -> None:
        """Check that these are the logits of the model itself.

        Args:
            what: gave them.
            logits: for ``example(rows)``, [rows, classes].

        Raises:
            ModelCheckFailed: they differ by more than 1e-4 of the largest in float32, else by more
                than a tenth, or scores by more than a hundredth; so the first class can change only
                between two that were closer than twice that.
        """
        expected = _rows(self.logits, len(logits))
        error = difference(logits, expected)
        if not error <= tolerance(self.precision):  # NaN is not, either
            raise ModelCheckFailed(f"{what}: it differs from model(x) by {error:.1e}")
        if self.precision == "fp32":
            return
        moved = float((self.scores(logits) - self.scores(expected)).abs().max())
        if not moved <= _SCORE_TOLERANCE:
            raise ModelCheckFailed(
                f"precision: {self.precision} moves a score by {moved:.3f}; more than"
                f" {_SCORE_TOLERANCE} is refused: use fp32"
            )


def tolerance(precision: Precision) -> float:
    """Of logits, relative to the largest: float32 sums in another order."""
    return 1e-4 if precision == "fp32" else 0.1  # scores are compared as well


def difference(ours: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest that was expected."""
    return float((ours - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def _rows(values: Tensor, count: int) -> Tensor:
    """The first rows; after the last one the first follows again."""
    return values[torch.arange(count, device=values.device) % len(values)]
