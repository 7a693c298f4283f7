"""From scores and a budget to a number of channels for each unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_channels.pruning.nearest import nearest
from lightning_channels.pruning.rungs import NEAR, Ladder, Rungs, Shares

__all__ = ["allocate"]


def allocate(ladders: Sequence[Ladder], shares: Shares, end: Shares | None = None, exact: bool = True) -> Tensor:
    """The numbers of channels that keep what scores highest within the limits.

    All units' rows are ranked together, and the lowest go, as few as bring every resource within its limit; each unit
    keeps the allowed number nearest to what is left of it. If that is more than 1 % below the limit, what went last
    comes back as far as it fits. It is a pure function, and does the same on every machine that measures the same.

    Args:
        ladders: What each unit may be, in the order of the columns of ``shares``.
        shares: The resources, in parts of their limits.
        end: For a step on the way from which nothing comes back: the resources in parts of their limits at the end.
            Rather than go below these, a row too much stays.
        exact: Whether to look for the nearest choice below the limits, at the cost of the ranking, where no single step
            brings it within 1 %: among all choices where there are up to 65536, else among those that change two units.

    Returns:
        Numbers of channels, int64, shape (units,); within the limits, if the least of all units are and ``end`` allows.
    """
    rungs = Rungs(ladders)
    at = rungs.index_of(_threshold(ladders, shares, end))
    at = _fill(rungs, at, shares)
    if exact and rungs.load(at, shares) < NEAR and bool((at < rungs.last).any()):
        at = nearest(rungs, at, shares)
    return rungs.numbers_at(at)


def _threshold(ladders: Sequence[Ladder], shares: Shares, end: Shares | None) -> Tensor:
    """Numbers after the fewest rows went, in the order of all units' scores, that leave the rest within the limits."""
    owners = _drop_order(ladders)
    snap, spans = _snapping(ladders)
    every = torch.arange(len(ladders))

    def after(dropped: int) -> Tensor:
        return snap[every, spans - torch.bincount(owners[:dropped], minlength=len(ladders))]

    over, within = -1, owners.numel()
    while within - over > 1:
        middle = (within + over) // 2
        if float(shares(after(middle)[None]).max()) <= 1:
            within = middle
        else:
            over = middle
    if end is not None and within > 0 and float(end(after(within)[None]).max()) <= 1:
        within -= 1
    return after(within)


def _drop_order(ladders: Sequence[Ladder]) -> Tensor:
    """The unit of each row that may go, the lowest score first; of equal ones the lowest in its own unit."""
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


def _snapping(ladders: Sequence[Ladder]) -> tuple[Tensor, Tensor]:
    """For each unit the allowed number nearest to each number of rows, from the least on, and how many rows may go."""
    found: list[Tensor] = []
    for ladder in ladders:
        least, most = int(ladder.numbers[0]), int(ladder.numbers[-1])
        wanted = torch.arange(least, most + 1, ladder.groups)
        above = torch.searchsorted(ladder.numbers, wanted).clamp(max=ladder.numbers.numel() - 1)
        high, low = ladder.numbers[above], ladder.numbers[(above - 1).clamp(min=0)]
        found.append(torch.where(high - wanted <= wanted - low, high, low))
    spans = torch.tensor([row.numel() - 1 for row in found])
    return torch.nn.utils.rnn.pad_sequence(found, batch_first=True), spans


def _fill(rungs: Rungs, at: Tensor, shares: Shares) -> Tensor:
    """Take back single steps that fit, the highest scores first, until the limit is near or none fits."""
    while rungs.load(at, shares) < NEAR:
        free = (at < rungs.last).nonzero().flatten()
        if not free.numel():
            return at
        tried = at.repeat(free.numel(), 1)
        tried[torch.arange(free.numel()), free] += 1
        fits = rungs.loads(tried, shares) <= 1
        if not bool(fits.any()):
            return at
        at = tried[int(rungs.gained(free, at[free]).masked_fill(~fits, -torch.inf).argmax())]
    return at
