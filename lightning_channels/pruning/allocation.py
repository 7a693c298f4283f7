"""From scores and a budget to a number of channels for each unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_channels.pruning.nearest import nearest
from lightning_channels.pruning.order import DropOrder
from lightning_channels.pruning.rungs import NEAR, Ladder, Rungs, Shares, load_of

__all__ = ["allocate", "allocate_alike"]


def allocate(ladders: Sequence[Ladder], shares: Shares, end: Shares | None = None, exact: bool = True) -> Tensor:
    """The numbers of channels that keep what scores highest within the limits.

    All units' rows are ranked together, and the lowest go, as few as bring every resource within its limit; each unit
    keeps the allowed number nearest to what is left of it. Where the last row to go saves so much that more than 1 % of
    the limit stays unused, its unit keeps that width and the others' rows come back. A pure function of its arguments.

    Args:
        ladders: What each unit may be, in the order of the columns of ``shares``.
        shares: The resources, in parts of their limits.
        end: For a step on the way from which nothing comes back: the resources in parts of their limits at the end.
            Rather than go below these, a row too much stays.
        exact: Whether to go on where the limit isn't reached within 1 %: such a last row stays and others go in its
            place, and at last, at the cost of the ranking, the nearest choice below the limits is looked for: among all
            choices where there are up to 65536, else among those that change two units.

    Returns:
        Numbers of channels, int64, shape (units,); within the limits, if the least of all units are and ``end`` allows.
    """
    if end is not None:
        order = DropOrder(ladders)
        last = order.fewest(end)
        if order.fewest(shares) >= last:
            return order.after(max(0, last - 1))
    found = _capped(ladders, shares)
    if exact and load_of(found, shares) < NEAR:
        found = max(found, _held(ladders, shares), key=lambda numbers: _height(numbers, shares))
        if load_of(found, shares) < NEAR:
            rungs = Rungs(ladders)
            found = rungs.numbers_at(nearest(rungs, rungs.index_of(found), shares))
    return found


def allocate_alike(ladders: Sequence[Ladder], shares: Shares, end: Shares | None = None) -> Tensor:
    """The same share of all units' channels, as large as the limits allow; some are one step wider, where it fits.

    Args:
        ladders: What each unit may be, in the order of the columns of ``shares``.
        shares: The resources, in parts of their limits.
        end: As for :func:`allocate`.

    Returns:
        Numbers of channels, int64, shape (units,).
    """
    ladders = [ladder.spread() for ladder in ladders]
    order = DropOrder(ladders)
    numbers = order.after(order.fewest(shares))
    near = [ladder.up_to(ladder.above(int(number))) for ladder, number in zip(ladders, numbers, strict=True)]
    return allocate(near, shares, end, exact=False)


def _height(numbers: Tensor, shares: Shares) -> float:
    load = load_of(numbers, shares)
    return load if load <= 1 else -1.0


def _capped(ladders: Sequence[Ladder], shares: Shares) -> Tensor:
    """Units whose step overshoots a limit make it, and the rows of the others come back, as many as fit."""
    ladders = list(ladders)
    single = shares(torch.stack([ladder.numbers[0] for ladder in ladders])[None]).shape[-1] == 1
    while True:
        order = DropOrder(ladders)
        rows = order.fewest(shares)
        numbers = order.after(rows)
        # of several limits one may be used up by units that the others have nothing to do with
        if not rows or (single and load_of(numbers, shares) >= NEAR):
            return numbers
        unit = order.owner(rows - 1)
        ladders[unit] = ladders[unit].up_to(int(numbers[unit]))


def _held(ladders: Sequence[Ladder], shares: Shares) -> Tensor:
    """Units whose step overshoots the limit don't make it, and more rows of the others go."""
    ladders = list(ladders)
    best = torch.stack([ladder.numbers[0] for ladder in ladders])
    while load_of(torch.stack([ladder.numbers[0] for ladder in ladders]), shares) <= 1:
        order = DropOrder(ladders)
        rows = order.fewest(shares)
        best = max(best, order.after(rows), key=lambda numbers: _height(numbers, shares))
        if not rows or load_of(best, shares) >= NEAR:
            break
        unit = order.owner(rows - 1)
        ladders[unit] = ladders[unit].down_to(int(order.after(rows - 1)[unit]))
    return best
