"""Greedy pruning: the channel that matters least for what it costs, again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_channels.pruning.nearest import nearest
from lightning_channels.pruning.rungs import NEAR, Ladder, Rungs, Shares

__all__ = ["greedy"]


def greedy(
    ladders: Sequence[Ladder],
    shares: Shares,
    cost: Callable[[Tensor], Tensor] | None,
    steps: int | None,
) -> Tensor:
    """The numbers of channels after the least worthy steps down.

    Args:
        ladders: What each unit may be; all are at their most.
        shares: The resources, in parts of their limits.
        cost: Numbers (choices, units) → the resource by which a step's scores are divided, (choices,); None to compare
            the scores.
        steps: How many steps are taken; None for as many as bring every resource within its limit.

    Returns:
        Numbers of channels, int64, shape (units,). Where the last step would go more than 1 %
        below the limit, the nearest choice that comes after the others is taken in its place.
    """
    rungs = Rungs(ladders)
    at = before = rungs.last
    taken = 0
    while rungs.load(at, shares) > 1 and (steps is None or taken < steps) and bool((at > 0).any()):
        before, at = at, at.clone()
        at[_least_worthy(rungs, at, cost)] -= 1
        taken += 1
    if taken and rungs.load(at, shares) < NEAR:
        rungs.last = before
        at = nearest(rungs, at, shares)
    return rungs.numbers_at(at)


def _least_worthy(rungs: Rungs, at: Tensor, cost: Callable[[Tensor], Tensor] | None) -> int:
    """The unit whose next step down loses the lowest sum of scores for what it saves; of equal ones the first."""
    units = (at > 0).nonzero().flatten()
    down = at.repeat(units.numel(), 1)
    down[torch.arange(units.numel()), units] -= 1
    lost = rungs.lost(units, at[units])
    if cost is not None:
        saved = cost(rungs.numbers_at(at[None])) - cost(rungs.numbers_at(down))
        lost = torch.where(saved > 0, lost / saved, torch.inf)
    return int(units[int(lost.argmin())])
