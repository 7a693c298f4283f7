"""Search by drawing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_channels.registry import SEARCHES
from lightning_channels.search.candidate import Candidate
from lightning_channels.search.protocol import SearchTask
from lightning_channels.search.space import Choices, Point, SearchSpace

__all__ = ["RandomSearch"]

_AT_ONCE = 32


@SEARCHES.register("random")
@dataclass
class RandomSearch:
    """Random choices within the limits, none twice: what the other algorithms are to be compared with."""

    _space: SearchSpace = field(init=False, repr=False)
    _rng: random.Random = field(init=False, repr=False)
    _seen: set[Point] = field(init=False, repr=False)

    def start(self, task: SearchTask) -> None:
        """Begin anew."""
        self._space, self._rng, self._seen = task.space, task.rng(), set()

    def ask(self, n: int) -> list[Choices]:
        """Some choices that were not drawn before."""
        drawn: list[Choices] = []
        while len(drawn) < min(n, _AT_ONCE):
            point = self._space.unseen(self._rng, self._seen)
            if point is None:
                break
            self._seen.add(point)
            drawn.append(self._space.choices(point))
        return drawn

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Nothing is learnt."""
