"""Choices as positions on each unit's ladder of allowed numbers, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["NEAR", "Ladder", "Rungs", "Shares", "load_of"]

# numbers (choices, units) → what of its limit each resource takes up (choices, resources)
Shares: TypeAlias = Callable[[Tensor], Tensor]

NEAR = 0.99  # so much of a limit counts as reaching it


@dataclass(frozen=True)
class Ladder:
    """What one unit may be.

    Args:
        numbers: Allowed numbers of channels, int64, ascending; the first is the least and the last the most.
        scores: The scores of its rows, the most important first; float64, as many as ``numbers[-1]`` takes.
        groups: How many channels a row has: one in each of the unit's groups.
    """

    numbers: Tensor
    scores: Tensor
    groups: int = 1

    def up_to(self, most: int) -> Ladder:
        """The same without the numbers above one of them."""
        return Ladder(self.numbers[self.numbers <= most], self.scores[: most // self.groups], self.groups)

    def down_to(self, least: int) -> Ladder:
        """The same without the numbers below one of them."""
        return Ladder(self.numbers[self.numbers >= least], self.scores, self.groups)

    def above(self, number: int) -> int:
        """The next number above one of them; the most has none."""
        higher = self.numbers[self.numbers > number]
        return int(higher[0]) if higher.numel() else number

    def spread(self) -> Ladder:
        """The same with its rows' relative ranks for scores, by which all units are narrowed alike."""
        rows = self.scores.numel()
        return Ladder(self.numbers, -torch.arange(rows, dtype=torch.float64) / rows, self.groups)


class Rungs:
    """The ladders of all units as padded tensors.

    Args:
        ladders: At least one.

    Attributes:
        numbers: Allowed numbers, (units, rungs).
        last: Each unit's highest rung.
        steps: Sum of the scores that each rung adds to the one below.
    """

    def __init__(self, ladders: Sequence[Ladder]) -> None:
        self.numbers = pad_sequence([ladder.numbers for ladder in ladders], batch_first=True)
        self.last = torch.tensor([ladder.numbers.numel() - 1 for ladder in ladders])
        lowest = min(float(ladder.scores.min()) for ladder in ladders)
        self.steps = pad_sequence([_steps(ladder, ladder.scores) for ladder in ladders], batch_first=True)
        # from the lowest score of all on, so that more is never worth less
        worth = [_steps(ladder, ladder.scores - lowest).cumsum(0) for ladder in ladders]
        self._worth = pad_sequence(worth, batch_first=True)
        self._units = torch.arange(len(ladders))

    def index_of(self, numbers: Tensor) -> Tensor:
        """The rungs at which units have these numbers."""
        return (self.numbers == numbers[:, None]).to(torch.int64).argmax(1)

    def numbers_at(self, at: Tensor) -> Tensor:
        """Numbers of channels of choices (…, units)."""
        return self.numbers[self._units, at]

    def worth(self, at: Tensor) -> Tensor:
        """What choices (…, units) keep of all scores."""
        return self._worth[self._units, at].sum(-1)

    def lost(self, units: Tensor, at: Tensor) -> Tensor:
        """Sum of the scores of the channels that the next rung down drops."""
        return self.steps[units, at]

    def loads(self, at: Tensor, shares: Shares) -> Tensor:
        """The fullest limit's share of each of (choices, units)."""
        return shares(self.numbers_at(at)).amax(-1)

    def load(self, at: Tensor, shares: Shares) -> float:
        """The fullest limit's share of one choice."""
        return float(self.loads(at[None], shares))


def load_of(numbers: Tensor, shares: Shares) -> float:
    """The fullest limit's share of one choice."""
    return float(shares(numbers[None]).max())


def _steps(ladder: Ladder, scores: Tensor) -> Tensor:
    """The sums of the scores of the rows that each rung adds."""
    channels = torch.arange(1, scores.numel() + 1) * ladder.groups
    rungs = torch.searchsorted(ladder.numbers, channels)
    return torch.zeros(ladder.numbers.numel(), dtype=torch.float64).index_add_(0, rungs, scores)
