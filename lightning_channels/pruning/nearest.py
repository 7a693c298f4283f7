"""The nearest choice below a limit, where ranking alone stays away from it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lightning_channels.pruning.rungs import NEAR, Rungs, Shares

__all__ = ["nearest"]

_ALL = 1 << 16
_CHUNK = 1 << 13
_SINGLES = 1024
_WINDOW = 8
_VERIFIED = 512


def nearest(rungs: Rungs, at: Tensor, shares: Shares) -> Tensor:
    """A choice near the limits: within 1 % the one that keeps the highest scores, else the nearest below.

    Args:
        rungs: The ladders.
        at: A choice within the limits.
        shares: The resources, in parts of their limits.

    Returns:
        The best of all choices where there are few, else what exchanges between two units at a time lead to.
    """
    if math.prod((rungs.last + 1).tolist()) <= _ALL:
        return _best(rungs, _every(rungs), shares)
    while True:
        better = _best(rungs, torch.cat([at[None], _exchanges(rungs, at, shares)]), shares)
        if rungs.load(better, shares) <= rungs.load(at, shares):
            return at
        at = better
        if rungs.load(at, shares) >= NEAR:
            return at


def _every(rungs: Rungs) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(last + 1) for last in rungs.last.tolist())).view(-1, rungs.last.numel())


def _best(rungs: Rungs, choices: Tensor, shares: Shares) -> Tensor:
    loads = torch.cat([rungs.loads(chunk, shares) for chunk in torch.split(choices, _CHUNK)])
    loads = loads.masked_fill(loads > 1, -torch.inf)
    highest = float(loads.max())
    among = (loads >= min(NEAR, highest)).nonzero().flatten()
    return choices[among[int(rungs.worth(choices[among]).argmax())]]


def _exchanges(rungs: Rungs, at: Tensor, shares: Shares) -> Tensor:
    """Changes of one or two units that should come nearest below: as if what each saves added up."""
    units = at.numel()
    window = max(1, min(_WINDOW, _SINGLES // (2 * units)))
    moves = torch.cat([torch.arange(-window, 0), torch.arange(1, window + 1)])
    unit = torch.arange(units).repeat_interleave(moves.numel())
    move = moves.repeat(units)
    there = (at[unit] + move >= 0) & (at[unit] + move <= rungs.last[unit])
    unit, move = unit[there], move[there]
    singles = at.repeat(unit.numel(), 1)
    singles[torch.arange(unit.numel()), unit] += move
    base = shares(rungs.numbers_at(at[None]))
    change = shares(rungs.numbers_at(singles)) - base
    expected = (base + change[:, None] + change[None]).amax(-1)
    expected[unit[:, None] == unit[None]] = torch.inf
    expected = torch.cat([(base + change).amax(-1), expected.triu(1).flatten()])  # alone, then in pairs
    # a little over is tried as well: a pair in neighbouring layers saves less or more than the two apart
    order = expected.masked_fill(expected > 1 + (1 - NEAR) / 2, -torch.inf).sort(descending=True, stable=True).indices
    order = order[:_VERIFIED]
    count = unit.numel()
    alone, pairs = order[order < count], order[order >= count] - count
    first, second = pairs // count, pairs % count
    both = singles[first]
    both[torch.arange(pairs.numel()), unit[second]] = singles[second, unit[second]]
    return torch.cat([singles[alone], both])
