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

__all__ = ["Form", "Forms", "count_form", "owners_of"]

Form = tuple[tuple[float, tuple[int, ...]], ...]
"""A sum of products (factor, groups): ``((3, ()), (2, (5,)))`` is 3 + 2 n₅, where group 5 keeps n₅ channels in each of
its tiles."""


def count_form(columns: Sequence[Tensor], size: int, owners: Tensor, widths: Sequence[int]) -> Form:
    """How many indices are left, where channels decide about each.

    Nearly always each of a group's channels decides about as many of them. Where not, as in a copy that lacks the last
    channel, the size follows from which are kept, and the mean stands for it.

    Args:
        columns: For each index a channel's number, or -1 for none; an index is left if its channels in all columns are.
        size: Number of indices.
        owners: Group of each channel, and at the end -1.
        widths: Number of channels of each group, in one of its tiles.
    """
    columns = [column for number, column in enumerate(columns) if not _is_among(column, columns[:number])]
    groups = [owners[column] for column in columns]
    if not groups:
        return ((size, ()),)
    if len(groups) == 1:
        times = torch.bincount(groups[0] + 1)
        rows = times.nonzero() - 1
        times = times[times > 0]
    else:
        rows, times = torch.stack(groups, 1).unique(dim=0, return_counts=True)
    counts: Counter[tuple[int, ...]] = Counter()
    for row, count in zip(rows.tolist(), times.tolist(), strict=True):
        counts[tuple(sorted(group for group in row if group >= 0))] += count
    return tuple((_mean(counts[who], math.prod(widths[g] for g in who)), who) for who in sorted(counts))


def _is_among(column: Tensor, others: Sequence[Tensor]) -> bool:
    return any(torch.equal(column, other) for other in others)


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
