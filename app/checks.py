"""Is a heatmap worth believing? The model is asked again, of pictures with parts of them hidden."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from app.imaging.hiding import STEPS, blend, blur, curve, frames, ranking
from app.options import Check, ExplainOptions
from app.types import Curve, Explanation, Map, Pixels

Scores = NDArray[np.float32]  # [n, classes]
Ask = Callable[[Sequence[Pixels]], Awaitable[Scores]]
Make = Callable[[Callable[[], list[Pixels]]], Awaitable[list[Pixels]]]

_CURVE = 2 * (STEPS + 1)  # the map's own pictures, and those of a random one
_COUNTERFACTUALS = 3


def questions(options: ExplainOptions, maps: int) -> int:
    """How many pictures the model will be asked about."""
    curves = maps * len(options.check) * _CURVE
    return curves + (_COUNTERFACTUALS if options.counterfactual else 0)


@dataclass(frozen=True, slots=True)
class Checker:
    """Asks the model again.

    ``pixels`` is what it saw; ``fill`` the colour that stands for nothing; ``ask`` gives the scores
    of pictures, and ``make`` makes those where pictures are worked on.
    """

    pixels: Pixels
    fill: tuple[int, int, int]
    ask: Ask
    make: Make

    async def blur_region(
        self, explanations: Sequence[Explanation], inside: Map
    ) -> list[Explanation]:
        """Scores with the region blurred away, and with all but the region.

        Args:
            explanations: with a report of the region.
            inside: [H, W] in [0, 1], the region in the model's input.
        """
        pictures = await self.make(partial(self._without, inside))
        scores = await self.ask(pictures)  # [3, classes]

        def with_scores(one: Explanation) -> Explanation:
            whole, without, alone = scores[:, one.index].tolist()
            report = one.region and replace(one.region, counterfactual=(whole, without, alone))
            return replace(one, region=report)

        return [with_scores(one) for one in explanations]

    async def draw_curves(
        self, explanation: Explanation, kinds: Sequence[Check], seed: int
    ) -> Explanation:
        """The class's score as the hottest pixels are taken away, or given back, first."""
        random = np.random.default_rng(seed).random(explanation.raw.shape, np.float32)
        checks: dict[str, Curve] = {}
        for kind in kinds:
            own = await self._scores(kind, explanation.raw, explanation.index)
            checks[kind] = curve(own, await self._scores(kind, random, explanation.index))
        return replace(explanation, checks=checks)

    async def _scores(self, kind: Check, raw: Map, index: int) -> list[float]:
        pictures = await self.make(partial(self._frames, kind, raw))
        scores: list[float] = (await self.ask(pictures))[:, index].tolist()
        return scores

    def _without(self, inside: Map) -> list[Pixels]:
        soft = blur(self.pixels)
        return [blend(self.pixels, soft, share) for share in (0 * inside, inside, 1 - inside)]

    def _frames(self, kind: Check, raw: Map) -> list[Pixels]:
        order = ranking(raw, *self.pixels.shape[:2])
        if kind == "deletion":
            return frames(self.pixels, np.full_like(self.pixels, self.fill), order)
        return frames(blur(self.pixels), self.pixels, order)
