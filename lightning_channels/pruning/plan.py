"""One model's pruning: what its units may be, what they cost, and which channels they keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_channels.mutators import ChannelMutator
from lightning_channels.pruning.allocation import allocate, allocate_alike
from lightning_channels.pruning.bounds import Bounds
from lightning_channels.pruning.greedy import greedy
from lightning_channels.pruning.ranking import Ranked, rank
from lightning_channels.pruning.reach import narrowest
from lightning_channels.pruning.rungs import Ladder, Shares
from lightning_channels.pruning.targets import Limits
from lightning_channels.resources import Resources

__all__ = ["Plan"]


class Plan:
    """Narrows a model to limits.

    Args:
        mutator: A prepared mutator.
        resources: What choices cost.
        bounds: Of each mutable unit, in their order.
        limits: What may be left in the end.
        spread: Whether all units are narrowed alike.
        regrow: Whether dropped channels may come back.
    """

    def __init__(
        self,
        mutator: ChannelMutator,
        resources: Resources,
        bounds: Sequence[Bounds],
        limits: Limits,
        *,
        spread: bool,
        regrow: bool,
    ) -> None:
        self.mutator, self.resources, self.bounds, self.limits = mutator, resources, list(bounds), limits
        self._spread, self._regrow = spread, regrow
        self.scored = [bound.unit for bound in bounds if not bound.ignored]

    def numbers(self) -> dict[str, int]:
        """Unit → active channels now."""
        return dict(zip(self.resources.units, self.resources.current.tolist(), strict=True))

    def measured(self) -> dict[str, float]:
        """Resource → what there is of it now."""
        return {name: float(value) for name, value in self.resources.measure(self.resources.current).items()}

    def least(self) -> dict[str, float]:
        """Resource → what there is of it with every unit at its narrowest."""
        numbers = narrowest(self.bounds, self.resources.current)
        return {name: float(value) for name, value in self.resources.measure(numbers).items()}

    def is_met(self) -> bool:
        """Whether nothing is left to do."""
        now = self.resources.current.tolist()
        given = all(
            number == bound.at(number, 1.0) for bound, number in zip(self.bounds, now, strict=True) if _is_given(bound)
        )
        return given and self.limits.met(self.measured())

    def narrow(self, scores: Mapping[str, Tensor], begin: Mapping[str, int], limits: Limits, share: float) -> None:
        """Keep what scores highest within limits.

        Args:
            scores: Of each unit that isn't ignored.
            begin: Unit → active channels when the pruning began.
            limits: What may be left now.
            share: The share of the way to the end; at 1 the nearest choice below the limits is looked for.
        """
        ranked = self._ranked(scores)
        numbers = self.resources.current.clone()
        final = numbers.clone()
        for at, bound in enumerate(self.bounds):
            if _is_given(bound):
                first = begin[bound.unit.name]
                now = first if self._regrow else int(numbers[at])
                numbers[at], final[at] = min(now, bound.at(first, share)), min(now, bound.at(first, 1.0))
        moving = [at for at, bound in enumerate(self.bounds) if bound.moves]
        if moving and limits.amounts:
            ladders = [self._ladder(at, int(numbers[at]), ranked, begin) for at in moving]
            shares = self._shares(numbers, moving, limits)
            end = None if share >= 1 or self._regrow else self._shares(final, moving, self.limits)
            if self._spread:
                numbers[moving] = allocate_alike(ladders, shares, end)
            else:
                numbers[moving] = allocate(ladders, shares, end, exact=share >= 1)
        self._keep(ranked, numbers)

    def step_down(
        self, scores: Mapping[str, Tensor], begin: Mapping[str, int], per: str | None, steps: int | None
    ) -> None:
        """Drop the least worthy channels.

        Args:
            scores: Of each unit that isn't ignored.
            begin: Unit → active channels when the pruning began.
            per: The resource by which scores are divided.
            steps: How many steps are taken; None for all that are left.
        """
        ranked = self._ranked(scores)
        numbers = self.resources.current.clone()
        moving = [at for at, bound in enumerate(self.bounds) if bound.moves]

        def cost(tried: Tensor) -> Tensor:
            assert per is not None
            return self.resources.measure(_placed(numbers, moving, tried))[per]

        ladders = [self._ladder(at, int(numbers[at]), ranked, begin, down=True) for at in moving]
        shares = self._shares(numbers, moving, self.limits)
        numbers[moving] = greedy(ladders, shares, None if per is None else cost, steps)
        self._keep(ranked, numbers)

    def _ranked(self, scores: Mapping[str, Tensor]) -> dict[str, Ranked]:
        return {unit.name: rank(unit, scores[unit.name], self._regrow) for unit in self.scored}

    def _ladder(
        self, at: int, now: int, ranked: Mapping[str, Ranked], begin: Mapping[str, int], down: bool = False
    ) -> Ladder:
        bound = self.bounds[at]
        own = ranked[bound.unit.name]
        most = begin[bound.unit.name] if self._regrow and not down else now
        numbers = bound.up_to(bound.lowest(most), most)
        return Ladder(torch.tensor(numbers), own.scores[: most // own.groups], own.groups)

    def _shares(self, numbers: Tensor, moving: Sequence[int], limits: Limits) -> Shares:
        return lambda tried: limits.shares(self.resources.measure(_placed(numbers, moving, tried)))

    def _keep(self, ranked: Mapping[str, Ranked], numbers: Tensor) -> None:
        """Set all units that change, or none."""
        kept: dict[str, list[int]] = {}
        for unit in self.scored:
            number = int(numbers[self.resources.units.index(unit.name)])
            channels = ranked[unit.name].channels(number)
            if unit.mutable_channel.current_mask.nonzero().flatten().tolist() != channels:
                kept[unit.name] = channels
        if kept:
            self.mutator.keep_channels(kept)


def _is_given(bound: Bounds) -> bool:
    return not bound.ignored and bound.given is not None


def _placed(numbers: Tensor, moving: Sequence[int], tried: Tensor) -> Tensor:
    """Choices of some units with the others as they are."""
    rows = numbers.repeat(tried.shape[0], 1)
    rows[:, moving] = tried
    return rows
