"""What a search moves along: the widths of a unit, or of units that change together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_channels.mutators import ChannelMutator, SlimmableChannelMutator
from lightning_channels.pruning.bounds import allowed_numbers

__all__ = ["Ladder", "ladders_of"]


@dataclass(frozen=True)
class Ladder:
    """Widths from the narrowest to the widest.

    Args:
        units: Which of the mutable units these are.
        numbers: Their numbers of channels, int64, shape (places, units).
    """

    units: tuple[int, ...]
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.numbers)


def ladders_of(mutator: ChannelMutator, divisor: int) -> list[Ladder]:
    """One for each mutable unit, or a single one where subnets were trained; those with a single place are left out.

    Args:
        mutator: A prepared mutator.
        divisor: What numbers are multiples of; the widest is always allowed.
    """
    units = mutator.mutable_units
    if isinstance(mutator, SlimmableChannelMutator):
        rows = [[number for _, number in mutator.check_choices(subnet)] for subnet in mutator.subnets]
        found = [Ladder(tuple(range(len(units))), _divisible(rows, divisor))]
    else:
        found = [Ladder((at,), allowed_numbers(unit, divisor)[:, None]) for at, unit in enumerate(units)]
    return [ladder for ladder in found if len(ladder) > 1]


def _divisible(rows: Iterable[list[int]], divisor: int) -> Tensor:
    """The rows that are multiples, and the widest; equal ones once."""
    distinct = sorted({tuple(row) for row in rows})
    widest = distinct[-1]
    kept = [row for row in distinct if all(n % divisor == 0 or n == most for n, most in zip(row, widest, strict=True))]
    return torch.tensor(kept, dtype=torch.int64)
