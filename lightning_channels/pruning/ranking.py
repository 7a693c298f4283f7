"""Which channels a unit keeps: its rows by score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Ranked", "rank"]


@dataclass(frozen=True)
class Ranked:
    """A unit's rows, the most important first; a row is a channel, or one of each group at the same place.

    Args:
        rows: Places within a group, int64.
        scores: Their scores: sums over the groups, float64.
        groups: How many channels a row has.
    """

    rows: Tensor
    scores: Tensor
    groups: int

    def channels(self, number: int) -> list[int]:
        """The ``number`` most important channels, ascending."""
        width, rows = self.rows.numel(), self.rows[: number // self.groups].sort().values
        return (torch.arange(self.groups)[:, None] * width + rows).flatten().tolist()


def rank(unit: Any, scores: Tensor, regrow: bool = False) -> Ranked:
    """Order a unit's rows by score, of equal ones the first.

    Args:
        unit: The unit; its groups keep the same rows.
        scores: A score for each channel.
        regrow: Whether rows that aren't active now are ranked like the others; they come last otherwise.
    """
    of_rows = scores.view(unit.groups, -1).sum(0)
    order = of_rows.sort(descending=True, stable=True).indices
    if not regrow:
        active = unit.mutable_channel.current_mask.view(unit.groups, -1)[0].to(torch.int8)
        order = order[active[order].sort(descending=True, stable=True).indices]
    return Ranked(order, of_rows[order], unit.groups)
