"""Sizes of tensors as forms: how many indices of a dim are left, whatever is chosen."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_channels.tracing.labels import Maps

if TYPE_CHECKING:
    from lightning_channels.tracing.graph import ModuleGraph
    from lightning_channels.tracing.walk import Walk

__all__ = ["Form", "Forms", "Variable", "count_form", "owners_of"]

Variable = tuple[int, int]
"""(group, limit): how many of the group's first channels are kept, of ``limit`` of them, in each of its tiles."""

Form = tuple[tuple[float, tuple[Variable, ...]], ...]
"""A sum of products (factor, variables): ``((3, ()), (2, ((5, 8),)))`` is 3 + 2 n₅, where group 5 keeps n₅ of its 8
channels."""


def count_form(columns: Sequence[Tensor], size: int, owners: Tensor, widths: Sequence[int]) -> Form:
    """How many indices are left, where channels decide about each.

    Nearly always each of a group's channels decides about as many of them. Where not, as in a copy that lacks the last
    channel, that is counted for the first channels (with two groups that cross each other: for their mean).

    Args:
        columns: For each index a channel's number, or -1 for none; an index is left if its channels in all columns are.
        size: Number of indices.
        owners: Group of each channel, and at the end -1.
        widths: Number of channels of each group, in one of its tiles.
    """
    columns = [column for number, column in enumerate(columns) if not _is_among(column, columns[:number])]
    columns = [column for column in columns if bool((column >= 0).any())]
    if not columns:
        return ((size, ()),)
    return _of_one(columns[0], owners, widths) if len(columns) == 1 else _of_several(columns, owners, widths)


def _is_among(column: Tensor, others: Sequence[Tensor]) -> bool:
    return any(torch.equal(column, other) for other in others)


def _of_one(column: Tensor, owners: Tensor, widths: Sequence[int]) -> Form:
    free = int((column < 0).sum())
    parts: list[tuple[float, tuple[Variable, ...]]] = [(free, ())] if free else []
    column = column[column >= 0]
    group_of = owners[column]
    times, totals = torch.bincount(column), torch.bincount(group_of)
    uneven = set(group_of[times[column] * torch.tensor(widths)[group_of] != totals[group_of]].tolist())
    for group in totals.nonzero().flatten().tolist():
        if group not in uneven:
            parts.append((int(totals[group]) // widths[group], ((group, widths[group]),)))
            continue
        own = [*torch.bincount(column, minlength=len(owners) - 1)[owners[:-1] == group].tolist(), 0]
        parts += [(own[at - 1] - own[at], ((group, at),)) for at in range(1, len(own)) if own[at - 1] != own[at]]
    return tuple(parts)


def _of_several(columns: Sequence[Tensor], owners: Tensor, widths: Sequence[int]) -> Form:
    rows, times = torch.stack([owners[column] for column in columns], 1).unique(dim=0, return_counts=True)
    counts: Counter[tuple[int, ...]] = Counter()
    for row, count in zip(rows.tolist(), times.tolist(), strict=True):
        counts[tuple(sorted(group for group in row if group >= 0))] += count
    return tuple(
        (_mean(counts[who], math.prod(widths[g] for g in who)), tuple((g, widths[g]) for g in who))
        for who in sorted(counts)
    )


def _mean(count: int, channels: int) -> float:
    whole, rest = divmod(count, channels)
    return count / channels if rest else whole


def owners_of(widths: Sequence[int]) -> Tensor:
    """Group of each channel, where they are numbered through, and at the end -1."""
    return torch.tensor([*(number for number, width in enumerate(widths) for _ in range(width)), -1])


class Forms:
    """The forms of a traced model's tensors.

    Args:
        graph: What the tracer found.
    """

    def __init__(self, graph: ModuleGraph) -> None:
        self.widths = [len(group.classes) for group in graph.groups]
        self._owners = owners_of(self.widths)
        channel = torch.full((sum(map(len, graph.roots)),), -1)
        first = 0
        for group, width in zip(graph.groups, self.widths, strict=True):
            if group.pin is None:
                channel[group.classes] = torch.arange(first, first + width)
            first += width
        self._channels = [channel[root] for root in graph.roots]  # of each label; those of pinned groups never go
        self._known: dict[tuple[int, ...], Form] = {}

    def of(self, walk: Walk, ref: int, dim: int) -> Form:
        """The form of one dim of a tensor.

        Args:
            walk: Of the program that the tensor is in.
            ref: The tensor's number.
            dim: Which dim, also counted from the end.
        """
        shape = walk.program.shapes[ref]
        dim %= len(shape)
        maps = [labels for labels in walk.maps.get(ref, ()) if labels.shape[dim] > 1]
        if not maps:
            return ((shape[dim], ()),)
        key = (*map(id, maps), dim)  # the walk keeps the maps alive
        if key not in self._known:
            self._known[key] = count_form(self._columns(maps, dim), shape[dim], self._owners, self.widths)
        return self._known[key]

    def _columns(self, maps: Maps | list[Tensor], dim: int) -> list[Tensor]:
        columns = []
        for labels in maps:
            rows = labels.movedim(dim, 0).reshape(labels.shape[dim], -1).long()
            for channel in self._channels:
                found = channel[rows]
                first = found[:, 0]
                # where an index holds several channels, some of them are always left: a rectangle's other dims
                columns.append(torch.where((found == first[:, None]).all(1), first, -1))
        return columns
