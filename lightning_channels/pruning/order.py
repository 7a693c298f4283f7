"""All units' rows in the order in which they go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lightning_channels.pruning.rungs import Ladder, Shares

__all__ = ["DropOrder"]

_AT_ONCE = 32


class DropOrder:
    """The rows that may go, the lowest score first; of equal ones the lowest in its own unit.

    Args:
        ladders: Of all units.
    """

    def __init__(self, ladders: Sequence[Ladder]) -> None:
        self._owners = _owners(ladders)
        snapped = [_snapped(ladder) for ladder in ladders]
        self._snap = pad_sequence(snapped, batch_first=True)
        self._spans = torch.tensor([row.numel() - 1 for row in snapped])
        self._units = torch.arange(len(ladders))

    def owner(self, row: int) -> int:
        """The unit of a row."""
        return int(self._owners[row])

    def after(self, rows: int) -> Tensor:
        """The numbers of channels once so many rows went: the allowed ones nearest to what is left."""
        return self._after(torch.tensor([rows]))[0]

    def _after(self, rows: Tensor) -> Tensor:
        """The same for several ascending numbers of rows: (numbers of rows, units)."""
        segment = torch.searchsorted(rows, torch.arange(self._owners.numel()), right=True)
        units, steps = self._units.numel(), rows.numel()
        counts = torch.bincount(segment * units + self._owners, minlength=(steps + 1) * units)
        gone = counts.view(-1, units)[:steps].cumsum(0)
        return self._snap[self._units, self._spans - gone]

    def fewest(self, shares: Shares) -> int:
        """The fewest rows whose going brings every resource within its limit; all of them if none does."""
        over, within = -1, self._owners.numel()
        while within - over > 1:
            inside = min(_AT_ONCE, within - over - 1)
            tried = torch.linspace(over + 1, within - 1, inside, dtype=torch.float64).round().to(torch.int64)
            fits = (shares(self._after(tried)).amax(-1) <= 1).nonzero().flatten()
            first = int(fits[0]) if fits.numel() else inside
            over = int(tried[first - 1]) if first else over
            within = int(tried[first]) if first < inside else within
        return within


def _owners(ladders: Sequence[Ladder]) -> Tensor:
    owners, scores, ranks = [], [], []
    for unit, ladder in enumerate(ladders):
        least, rows = int(ladder.numbers[0]) // ladder.groups, ladder.scores.numel()
        rank = torch.arange(rows - 1, least - 1, -1)
        owners.append(torch.full_like(rank, unit))
        scores.append(ladder.scores[rank])
        ranks.append(rank / rows)
    order = torch.cat(ranks).sort(descending=True, stable=True).indices
    order = order[torch.cat(scores)[order].sort(stable=True).indices]
    return torch.cat(owners)[order]


def _snapped(ladder: Ladder) -> Tensor:
    """The allowed number nearest to each number of rows, from the least on, of two the larger."""
    least, most = int(ladder.numbers[0]), int(ladder.numbers[-1])
    wanted = torch.arange(least, most + 1, ladder.groups)
    above = torch.searchsorted(ladder.numbers, wanted)
    high, low = ladder.numbers[above], ladder.numbers[(above - 1).clamp(min=0)]
    return torch.where(high - wanted <= wanted - low, high, low)
