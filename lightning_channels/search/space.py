"""What a search may choose from: the widths of each unit, together within limits."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_channels.divisors import resolve_divisor
from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutators import ChannelMutator, supernet_hash
from lightning_channels.pruning.bounds import Bounds
from lightning_channels.pruning.reach import check_reachable
from lightning_channels.pruning.targets import Limits, Target, TargetLike, parse_target
from lightning_channels.resources import Resources
from lightning_channels.search.ladders import ladders_of
from lightning_channels.units.choosing import Choice, is_listed

__all__ = ["Choices", "Point", "SearchSpace"]

Point: TypeAlias = tuple[int, ...]
"""A choice as its place on each ladder of the space, counted from the narrowest."""

Choices: TypeAlias = dict[str, int | float]
"""A choice for each mutable unit."""

_LISTED = 4096
"""Spaces of so many choices are gone through one by one."""

_DRAWS = 200
_SHARES = torch.linspace(1, 0, 33, dtype=torch.float64)[1:]


class SearchSpace:
    """The choices of a supernet among which a search looks, within limits.

    A choice is complete: it names every mutable unit. Those that have a single width here are no matter of the search.
    Where the subnets of the mutator are what was trained (:class:`SlimmableChannelMutator`), they are the choices.

    Args:
        mutator: A prepared mutator.
        resources: What choices cost; made of the mutator by default, for one sample. One with a latency model takes
            ``latency_ms`` as a limit, too.
        limits: What may not be exceeded, as a pruning's target: a share of the full net (``{"flops": 0.5}``) or an
            amount (``{"params": "10M"}``), several at once. None for no limits.
        divisor: Layers' widths are multiples of it, beyond what the units ask for; the widest is always allowed. Or
            ``"auto"``, for what is fast on this machine; see :func:`~lightning_channels.recommended_divisor`.

    Attributes:
        mutator: The mutator.
        resources: What choices cost.
        limits: Resource → most that is allowed.
        divisor: The divisor, a number.
        candidates: Unit → the numbers of channels that it may have, ascending.
        last: The highest place of each ladder; a ladder is what is chosen: the candidates of a unit, or of several that
            change together.
        size: How many choices there are, those over the limits among them.

    Raises:
        ConfigError: If a limit can't be met by the narrowest choice, names what isn't counted or is no amount, if the
            divisor is none, or if no unit has a choice.
        PrepareError: If no model is prepared.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_channels import ChannelMutator, SearchSpace
        >>> mutator = ChannelMutator()
        >>> mutator.prepare_from_supernet(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> space = SearchSpace(mutator, limits={"macs": 0.5}, divisor=2)
        >>> space.candidates
        {'0_(0, 8)_8': [2, 4, 6, 8]}
        >>> space.allows({"0_(0, 8)_8": 4}), space.allows({"0_(0, 8)_8": 6})
        (True, False)
    """

    def __init__(
        self,
        mutator: ChannelMutator,
        resources: Resources | None = None,
        limits: TargetLike | None = None,
        divisor: int | str = 1,
    ) -> None:
        self.mutator, self.divisor = mutator, resolve_divisor(divisor)
        self._units = mutator.mutable_units
        self._ladders = ladders_of(mutator, self.divisor)
        if not self._ladders:
            advice = "; take a smaller divisor" if self.divisor > 1 else "; mutator.report() says why"
            raise ConfigError(f"there is nothing to search: no unit has more than one width{advice}")
        self.resources = Resources(mutator, per_sample=True) if resources is None else resources
        self.last: Point = tuple(len(ladder) - 1 for ladder in self._ladders)
        self.size = math.prod(last + 1 for last in self.last)
        self._table, self._ladder_of = self._tables()
        self._allowed = [self._numbers_of(at) for at in range(len(self._units))]
        self._place_of = [
            {tuple(row): at for at, row in enumerate(ladder.numbers.tolist())} for ladder in self._ladders
        ]
        self._target = Target()
        self.limits: dict[str, float] = {}
        if limits is not None:
            self._limit(limits)

    def _tables(self) -> tuple[Tensor, Tensor]:
        """The numbers of each unit by place, and its ladder; the one past the last is of units that don't move."""
        rows = [torch.tensor([unit.check_choice(unit.max_choice)]) for unit in self._units]
        ladder_of = torch.full((len(rows),), len(self._ladders))
        for number, ladder in enumerate(self._ladders):
            for unit, column in zip(ladder.units, ladder.numbers.unbind(1), strict=True):
                rows[unit], ladder_of[unit] = column, number
        return pad_sequence(rows, batch_first=True), ladder_of

    def _limit(self, limits: TargetLike) -> None:
        try:
            self._target = parse_target(limits)
            amounts = self._target.limits(self.resources.totals)
            bounds = [self._bounds(at) for at in range(len(self._units))]
            check_reachable(self.resources, bounds, self.resources.full, amounts)
        except ConfigError as error:
            raise type(error)(f"limits: {error}") from error
        self.limits = amounts.amounts

    def _bounds(self, at: int) -> Bounds:
        numbers = self._allowed[at]
        return Bounds(self._units[at], torch.tensor(numbers), numbers[0])

    def _numbers_of(self, at: int) -> list[int]:
        ladder = int(self._ladder_of[at])
        count = len(self._ladders[ladder]) if ladder < len(self._ladders) else 1
        return sorted(set(self._table[at, :count].tolist()))

    @property
    def candidates(self) -> dict[str, list[int]]:
        """Unit → the numbers of channels that it may have, ascending."""
        return {unit.name: list(numbers) for unit, numbers in zip(self._units, self._allowed, strict=True)}

    @cached_property
    def hash(self) -> str:
        """The same for equal spaces of equal supernets; a journal belongs to one of them."""
        ladders = [[[self._units[u].name for u in ladder.units], ladder.numbers.tolist()] for ladder in self._ladders]
        facts = {
            "supernet": supernet_hash(self.mutator),
            "ladders": ladders,
            "limits": {name: [amount.value, amount.relative] for name, amount in self._target.amounts.items()},
            # what is measured differs from run to run
            "totals": {name: total for name, total in self.resources.totals.items() if name != "latency_ms"},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    # --- points and choices ------------------------------------------------------------------------------------------

    def choices(self, point: Sequence[int]) -> Choices:
        """The choice at a place of each ladder, complete."""
        numbers = self.numbers([point])[0].tolist()
        return {unit.name: unit.choice_of(number) for unit, number in zip(self._units, numbers, strict=True)}

    def point(self, choices: Mapping[str, Choice]) -> Point:
        """The places of a choice.

        Args:
            choices: Unit name → choice, of all units that have more than one width.

        Raises:
            ChoiceError: If a unit is unknown or missing, or if a choice is none of its candidates.
        """
        for name, choice in choices.items():
            if is_listed(choice):
                raise ChoiceError(f"a search chooses how many channels are kept, and unit {name!r} was given a list")
        given = {unit.name: number for unit, number in self.mutator.check_choices(choices)}
        numbers = [self._checked(at, given.get(unit.name)) for at, unit in enumerate(self._units)]
        places = []
        for ladder, place_of in zip(self._ladders, self._place_of, strict=True):
            row = tuple(numbers[unit] for unit in ladder.units)
            if row not in place_of:
                raise ChoiceError(f"the units change together here, and no subnet has the widths {list(row)}")
            places.append(place_of[row])
        return tuple(places)

    def _checked(self, at: int, number: int | None) -> int:
        """A unit's number of channels where it is allowed; what isn't given must be the only one."""
        unit, allowed = self._units[at], self._allowed[at]
        if number is None and len(allowed) > 1:
            raise ChoiceError(f"the choices name no width for unit {unit.name!r}; a search's choices are complete")
        if number is not None and number not in allowed:
            known = ", ".join(str(unit.choice_of(other)) for other in allowed)
            raise ChoiceError(
                f"the choice {unit.choice_of(number)!r} of unit {unit.name!r} is none of its candidates here: {known}"
            )
        return allowed[0] if number is None else number

    def numbers(self, points: Sequence[Sequence[int]] | Tensor) -> Tensor:
        """Numbers of channels of each mutable unit, int64, shape (points, units): what ``resources.measure`` takes."""
        places = torch.as_tensor(points, dtype=torch.int64)
        places = torch.cat([places, torch.zeros(len(places), 1, dtype=torch.int64)], 1)[:, self._ladder_of]
        return self._table[torch.arange(len(self._units)), places]

    # --- costs -------------------------------------------------------------------------------------------------------

    def measure(self, point: Sequence[int]) -> dict[str, float]:
        """What a choice costs, by resource."""
        # one at a time, so that rounding can't depend on what it is measured with
        return {name: float(value) for name, value in self.resources.measure(self.numbers([point])[0]).items()}

    def within(self, points: Sequence[Sequence[int]] | Tensor) -> Tensor:
        """Which of several points are within the limits, bool, shape (points,)."""
        measured = self.resources.measure(self.numbers(points))
        inside = torch.ones(len(points), dtype=torch.bool)
        for name, amount in self.limits.items():
            inside &= measured[name] <= amount
        return inside

    def allows(self, choices: Mapping[str, Choice]) -> bool:
        """Whether a choice is within the limits.

        Raises:
            ChoiceError: If it is none of this space's.
        """
        return Limits(self.limits).met(self.measure(self.point(choices)))

    # --- drawing -----------------------------------------------------------------------------------------------------

    def sample(self, rng: random.Random) -> Point:
        """A random point within the limits; narrow and wide nets as a whole are drawn as often as those in between."""
        tendency = rng.random()
        drawn = tuple(round(rng.triangular(0, last, tendency * last)) for last in self.last)
        return self.narrowed(drawn, rng)

    def unseen(self, rng: random.Random, seen: Collection[Point]) -> Point | None:
        """A random point within the limits that is none of ``seen``; None where there seems to be none left."""
        if self.size <= _LISTED:
            left = [point for point in self._every if point not in seen]
            return rng.choice(left) if left else None
        for _ in range(_DRAWS):
            point = self.sample(rng)
            if point not in seen:
                return point
        return None

    @cached_property
    def _every(self) -> list[Point]:
        points = list(itertools.product(*(range(last + 1) for last in self.last)))
        return [point for point, inside in zip(points, self.within(points).tolist(), strict=True) if inside]

    def narrowed(self, point: Point, rng: random.Random) -> Point:
        """A point itself, or where it is over a limit, one below it and near it that isn't.

        Of the units that are narrower then, none alone could be wider by a step.

        Args:
            point: Any.
            rng: Decides which units are narrowed most.
        """
        if bool(self.within([point])[0]):
            return point
        wanted = torch.tensor(point)
        found = self._scaled(wanted, rng)
        for ladder in rng.sample(range(len(point)), len(point)):
            wider = torch.arange(int(found[ladder]) + 1, point[ladder] + 1)
            if wider.numel():
                tried = found.repeat(len(wider), 1)
                tried[:, ladder] = wider
                inside = self.within(tried).nonzero().flatten()
                if inside.numel():
                    found = tried[int(inside[-1])]
        return tuple(found.tolist())

    def _scaled(self, wanted: Tensor, rng: random.Random) -> Tensor:
        """All ladders further down together, each at a speed of its own, as far as is needed."""
        speeds = torch.tensor([math.exp(rng.uniform(-1, 1)) for _ in self.last], dtype=torch.float64)
        tried = (wanted * _SHARES[:, None] ** speeds).to(torch.int64)
        return tried[int(self.within(tried).nonzero()[0])]
