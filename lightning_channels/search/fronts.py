"""Which of several candidates no other is better than in everything: fronts, and how crowded places on them are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["crowding", "fronts", "on_front"]

_ROWS = 1024


def on_front(costs: Tensor) -> Tensor:
    """What no other is at least as low as everywhere and lower somewhere.

    Args:
        costs: What is to be low, shape (candidates, objectives).

    Returns:
        Bool, shape (candidates,). Of equal rows all are, or none.
    """
    beaten = torch.zeros(len(costs), dtype=torch.bool)
    for start in range(0, len(costs), _ROWS):
        beaten[start : start + _ROWS] = _dominated(costs[start : start + _ROWS], costs).any(1)
    return ~beaten


def fronts(costs: Tensor) -> Tensor:
    """The number of the front that each candidate is on, where those on earlier fronts are taken away.

    The non-dominated sorting of Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II" (2002).

    Args:
        costs: What is to be low, shape (candidates, objectives).

    Returns:
        Int64, shape (candidates,), from 0 on.
    """
    found = torch.full((len(costs),), -1, dtype=torch.int64)
    number = 0
    while bool((found < 0).any()):
        left = (found < 0).nonzero().flatten()
        found[left[on_front(costs[left])]] = number
        number += 1
    return found


def crowding(costs: Tensor) -> Tensor:
    """How far the neighbours on a front are, summed over the objectives, each in parts of its range.

    Args:
        costs: Of the candidates on one front, shape (candidates, objectives).

    Returns:
        Float64, shape (candidates,); infinite at the ends.
    """
    distance = torch.zeros(len(costs), dtype=torch.float64)
    for column in costs.double().unbind(1):
        values, order = column.sort(stable=True)
        span = float(values[-1] - values[0])
        distance[order[[0, -1]]] = torch.inf
        if span > 0:
            distance[order[1:-1]] += (values[2:] - values[:-2]) / span
    return distance


def _dominated(rows: Tensor, others: Tensor) -> Tensor:
    """Whether each row is beaten by each of others."""
    at_most = (others[None] <= rows[:, None]).all(-1)
    return at_most & (others[None] < rows[:, None]).any(-1)
