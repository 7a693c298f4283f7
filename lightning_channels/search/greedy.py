"""Search step by step from the widest net down."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import ConfigError
from lightning_channels.registry import SEARCHES
from lightning_channels.search.candidate import Candidate
from lightning_channels.search.protocol import SearchTask
from lightning_channels.search.space import Choices, Point, SearchSpace

__all__ = ["GreedySearch"]

_SAVINGS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)


@SEARCHES.register("greedy")
@dataclass
class GreedySearch:
    """Narrows the unit that hurts least, again and again, until the limits are met.

    Yu and Huang, "AutoSlim: Towards One-Shot Architecture Search for Channel Numbers" (2019): from the widest net on,
    each unit is tried one step narrower, and the try with the best metric is kept. The choices that were kept are a
    path of ever narrower nets, :attr:`SearchResult.path`. Without limits it goes on to the narrowest net.

    Args:
        steps: In how many steps at most a unit goes from its widest to its narrowest; None for one candidate at a time.
        saving: The least part of the way to the limits that a step goes. A unit whose steps save less, because it
            costs little, takes several at once, and one that has not so much left to save waits until none has. None
            takes the smallest with which the budget is enough.

    Raises:
        ConfigError: If an argument is not allowed.
    """

    steps: int | None = 50
    saving: float | None = None
    _task: SearchTask = field(init=False, repr=False)
    _space: SearchSpace = field(init=False, repr=False)
    _amounts: dict[str, float] = field(init=False, repr=False)
    _grids: list[Tensor] = field(init=False, repr=False)
    _level: int = field(init=False, repr=False)
    _at: Point | None = field(init=False, repr=False)
    _tried: dict[Point, float] = field(init=False, repr=False)
    _ended: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.steps is not None and (not is_int(self.steps) or self.steps < 1):
            raise ConfigError(f"greedy's steps must be a whole number of at least 1, or None, got {self.steps!r}")
        if self.saving is not None and (not is_number(self.saving) or not 0 <= self.saving <= 1):
            raise ConfigError(f"greedy's saving must be a part of the way, in [0, 1], or None, got {self.saving!r}")

    def start(self, task: SearchTask) -> None:
        """Begin anew at the widest net.

        Raises:
            ConfigError: If the budget isn't enough to reach the limits.
        """
        self._task, self._space = task, task.space
        self._amounts = task.space.limits or _narrowest(task)
        self._grids = [_grid(last, self.steps) for last in task.space.last]
        self._at, self._ended = None, False
        self._tried = {task.space.last: 0.0}
        self._level = self._checked(task.budget - 1)

    def ask(self, n: int) -> list[Choices]:
        """The widest net, and then each unit a step narrower."""
        if self._ended:
            return []
        if self._at is not None:
            self._level = self._adapted(self._at, n)
            self._tried = self._tries(self._at, self._savings[self._level])
            if self._space.limits and self._falls_short(n):
                return [self._space.choices(self._cut_short())]
        return [self._space.choices(point) for point in self._tried][:n]

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Go on from the best of the tries; of equals from the first, which saves most."""
        if not candidates or self._ended:
            return
        self._at = self._space.point(max(candidates, key=self._task.value).choices)

    def _falls_short(self, n: int) -> bool:
        """Whether no more than ``n`` evaluations end without a choice within the limits."""
        left = n - len(self._tried)
        if left > 0 or not self._tried:
            return False
        return left < 0 or not bool(self._space.within(list(self._tried)).any())

    def _cut_short(self) -> Point:
        assert self._at is not None
        warnings.warn(
            "the budget ends before the greedy search is at the limits; the last evaluation goes to the nearest choice "
            "within them. Give a larger budget, or a larger saving",
            stacklevel=2,
        )
        self._ended = True
        return self._space.narrowed(self._at, self._task.rng())

    # --- tries -------------------------------------------------------------------------------------------------------

    def _excess(self, points: Tensor) -> Tensor:
        """How far choices are over the limits, all resources together; float64, shape (points,)."""
        measured = self._space.resources.measure(self._space.numbers(points))
        over = [(measured[name] / amount - 1).clamp_min(0) for name, amount in self._amounts.items()]
        return torch.stack(over).sum(0)

    def _tries(self, at: Point, least: float) -> dict[Point, float]:
        """Each unit narrower by the fewest steps that save enough or reach the limits → what that saves, most first."""
        lower = [grid[grid < place] for grid, place in zip(self._grids, at, strict=True)]
        counts = torch.tensor([len(places) for places in lower])
        if not int(counts.sum()):
            return {}
        rows = torch.tensor(at).repeat(int(counts.sum()), 1)
        rows[torch.arange(len(rows)), torch.arange(len(at)).repeat_interleave(counts)] = torch.cat(lower)
        ends = torch.tensor([at, self._space.last])
        excess = self._excess(torch.cat([ends, rows]))
        now, first = float(excess[0]), float(excess[1])
        if now == 0:
            return {}
        saved = now - excess[2:]
        enough = (saved >= max(least * first, 1e-9 * now)) | (excess[2:] == 0)
        ends_at = counts.cumsum(0).tolist()
        own = [range(end - count, end) for end, count in zip(ends_at, counts.tolist(), strict=True) if count]
        fits = enough.tolist()
        fitting = [next((step for step in steps if fits[step]), None) for steps in own]
        chosen = [step for step in fitting if step is not None] or [steps[-1] for steps in own]
        found = {tuple(rows[step].tolist()): float(saved[step]) for step in chosen if saved[step] > 0}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    # --- the budget --------------------------------------------------------------------------------------------------

    @property
    def _savings(self) -> tuple[float, ...]:
        return _SAVINGS if self.saving is None else (self.saving,)

    def _checked(self, budget: int) -> int:
        """The level of the smallest saving with which the budget is enough from the widest net on.

        Raises:
            ConfigError: If there is none; it says how many evaluations would be.
        """
        at = self._space.last
        for level, saving in enumerate(self._savings):
            if self._needed(at, saving, budget) <= budget:
                return level
        least: int | None = None
        for saving in reversed(self._savings):
            found = self._needed(at, saving, least)
            least = found if least is None else min(found, least)
        assert least is not None
        how = "with the largest steps" if self.saving is None else f"with a saving of {self.saving:g}"
        raise ConfigError(
            f"a budget of {budget + 1} is too small for the greedy search: {how} it takes up to {least + 1} "
            f"evaluations. Give budget={least + 1} or more, or take another algorithm"
        )

    def _adapted(self, at: Point, budget: int) -> int:
        """The level to go on with: a finer one where the budget allows it, a coarser one where it must be."""
        coarser = range(self._level, len(self._savings))
        levels = [max(0, self._level - 1), *coarser]
        fitting = (level for level in levels if self._needed(at, self._savings[level], budget) <= budget)
        return next(fitting, self._level)

    def _needed(self, at: Point, saving: float, most: int | None) -> int:
        """How many evaluations it takes where the smallest saving is always kept; counting ends above ``most``."""
        evaluations = 0
        while tries := self._tries(at, saving):
            evaluations += len(tries)
            if most is not None and evaluations > most:
                break
            at = list(tries)[-1]
        return evaluations


def _grid(last: int, steps: int | None) -> Tensor:
    """The places that a ladder is narrowed to, from the widest down."""
    count = last if steps is None else min(steps, last)
    return torch.tensor([round(last * (count - step) / count) for step in range(1, count + 1)])


def _narrowest(task: SearchTask) -> dict[str, float]:
    """What the narrowest net costs, which is the limit where there is none."""
    least = task.space.measure([0] * len(task.space.last))
    names = task.objectives or (("macs",) if "macs" in least else ("params",))
    return {name: least[name] for name in names}
