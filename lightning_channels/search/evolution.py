"""Search by evolution."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import ConfigError
from lightning_channels.registry import SEARCHES
from lightning_channels.search.candidate import Candidate
from lightning_channels.search.fronts import crowding, fronts
from lightning_channels.search.protocol import SearchTask
from lightning_channels.search.space import Choices, Point, SearchSpace

__all__ = ["EvolutionSearch"]

_TRIES = 20
_ANCHORS = 65


@SEARCHES.register("evolution")
@dataclass
class EvolutionSearch:
    """Children of the best choices so far: two of them mixed, or one with a few widths changed.

    As in Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (ECCV 2020), and Cai et
    al., "Once-for-All" (ICLR 2020): the parents are the best choices of all that were evaluated, and a child over a
    limit is narrowed until it is within. With objectives, parents and survivors are chosen as in NSGA-II (Deb et al.,
    2002): by fronts, and where these are full by the room around a choice.

    The first generation is random, but for the widest net of equal shares within the limits, and with objectives for
    the narrowest net.

    Args:
        population: How many choices a generation has; None for a twentieth of the budget, with objectives a tenth,
            between 10 and 50.
        parents: The part of a population that may have children; with objectives the whole population may.
        crossover: The part of the children that mix the widths of two parents; the others are mutations of one.
        mutation: How likely a mutation changes the width of each unit; one is changed at least.

    Raises:
        ConfigError: If an argument is not allowed.
    """

    population: int | None = None
    parents: float = 0.25
    crossover: float = 0.5
    mutation: float = 0.1
    _task: SearchTask = field(init=False, repr=False)
    _space: SearchSpace = field(init=False, repr=False)
    _rng: random.Random = field(init=False, repr=False)
    _seen: set[Point] = field(init=False, repr=False)
    _size: int = field(init=False, repr=False)
    _best: list[Candidate] = field(init=False, repr=False)
    _points: list[Point] = field(init=False, repr=False)
    _select: Callable[[list[Candidate]], list[Candidate]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.population is not None and (not is_int(self.population) or self.population < 2):
            raise ConfigError(f"evolution's population must be a whole number of at least 2, got {self.population!r}")
        if not is_number(self.parents) or not 0 < self.parents <= 1:
            raise ConfigError(f"evolution's parents must be a part of the population, in (0, 1], got {self.parents!r}")
        for name in ("crossover", "mutation"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ConfigError(f"evolution's {name} must be in [0, 1], got {value!r}")

    def start(self, task: SearchTask) -> None:
        """Begin anew."""
        self._task, self._space, self._rng = task, task.space, task.rng()
        # many generations of few come further than a few of many, but a front needs its length
        self._size = self.population or min(50, max(10, task.budget // (10 if task.objectives else 20)))
        self._seen, self._best, self._points = set(), [], []
        self._select = self._by_fronts if task.objectives else self._by_value

    def ask(self, n: int) -> list[Choices]:
        """A generation."""
        make = self._child if self._best else self._space.unseen
        points = [] if self._best else [self._note(point) for point in self._anchors()[:n]]
        while len(points) < min(n, self._size):
            point = make(self._rng, self._seen)
            if point is None:
                break
            points.append(self._note(point))
        return [self._space.choices(point) for point in points]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Keep the best of what there was and these."""
        self._best = self._select([*self._best, *candidates])
        self._points = [self._space.point(candidate.choices) for candidate in self._best]

    def _note(self, point: Point) -> Point:
        self._seen.add(point)
        return point

    def _anchors(self) -> list[Point]:
        """The widest net of equal shares within the limits; with objectives the narrowest as well."""
        last = torch.tensor(self._space.last)
        shares = torch.linspace(1, 0, _ANCHORS, dtype=torch.float64)
        points = (last * shares[:, None] + 0.5).to(torch.int64)
        widest = points[int(self._space.within(points).nonzero()[0])]
        ends = [widest, torch.zeros_like(last)] if self._task.objectives else [widest]
        return list(dict.fromkeys(tuple(point.tolist()) for point in ends))

    # --- selection ---------------------------------------------------------------------------------------------------

    def _by_value(self, candidates: list[Candidate]) -> list[Candidate]:
        kept = max(2, round(self.parents * self._size))
        return sorted(candidates, key=self._task.value, reverse=True)[:kept]

    def _by_fronts(self, candidates: list[Candidate]) -> list[Candidate]:
        """As many as a population has, from the first front on; of the last one those with most room around them."""
        costs = torch.tensor([self._task.costs(candidate) for candidate in candidates], dtype=torch.float64)
        found = fronts(costs)
        ordered: list[int] = []
        for number in range(int(found.max()) + 1):
            members = (found == number).nonzero().flatten()
            room = crowding(costs[members]).sort(descending=True, stable=True).indices
            ordered += members[room].tolist()
        return [candidates[at] for at in ordered[: self._size]]

    def _parent(self) -> Point:
        """One of the best; with objectives, which are in order, the better of two."""
        count = len(self._best)
        at = min(self._rng.randrange(count), self._rng.randrange(count)) if self._task.objectives else None
        return self._points[self._rng.randrange(count) if at is None else at]

    # --- children ----------------------------------------------------------------------------------------------------

    def _child(self, rng: random.Random, seen: set[Point]) -> Point | None:
        """A child that is none of ``seen``, or a random choice where these are all that come up."""
        for _ in range(_TRIES):
            made = self._mixed() if rng.random() < self.crossover else self._mutated(self._parent())
            if made not in seen and (child := self._space.narrowed(made, rng)) not in seen:
                return child
        return self._space.unseen(rng, seen)

    def _mixed(self) -> Point:
        first, second = self._parent(), self._parent()
        return tuple(self._rng.choice(pair) for pair in zip(first, second, strict=True))

    def _mutated(self, point: Point) -> Point:
        changed = [at for at in range(len(point)) if self._rng.random() < self.mutation]
        found = list(point)
        for at in changed or [self._rng.randrange(len(point))]:
            found[at] = self._moved(found[at], self._space.last[at])
        return tuple(found)

    def _moved(self, place: int, last: int) -> int:
        """Another place; near ones are drawn more often, as far as each order of magnitude is reached as often."""
        reach = max(1, int(last ** self._rng.random()))
        near = [other for other in range(max(0, place - reach), min(last, place + reach) + 1) if other != place]
        return self._rng.choice(near)
