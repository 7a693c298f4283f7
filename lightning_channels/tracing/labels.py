"""Labels: which original channel every index of every tensor comes from.

A *label* is an integer; every parameter and floating buffer has one per index of each of its dims. A *map* is an int32
tensor with as many dims as the tensor that it describes and size 1 along those where it does not vary. A tensor carries
a tuple of maps; an index of it is kept as long as the labels of all its maps are.

:class:`Labels` only collects what the rules find out while a program is walked (edges, pins, conditions, rectangles);
the solver turns that into classes once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["ALWAYS", "Condition", "Labels", "Maps", "Pin", "Rectangle", "compress", "varying"]

Maps = tuple[Tensor, ...]

ALWAYS = 0
"""The label of an index that comes from no channel (padding, an unlabelled part of a concatenation): always kept."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Why labels cannot change.

    Attributes:
        reason: What happened, in words.
        op: Name of the operator.
        module: Dotted name of the module that was running.
        line: File and line of the code that called it (``"net.py:42"``).
    """

    reason: str
    op: str = ""
    module: str = ""
    line: str = ""

    def __str__(self) -> str:
        if not self.op:
            return self.reason
        line = f", {self.line}" if self.line else ""
        return f"{self.reason} ({self.op} in {self.module or 'the model'}{line})"


@dataclass(slots=True)
class Condition:
    """A map over dims (rest, shared) meets a map over the shared dims alone: what that means shows at the end.

    Attributes:
        wide: Labels, shape (shared, rest).
        narrow: Labels, shape (shared,).
        priority: Undecided conditions are decided in ascending order.
    """

    wide: Tensor
    narrow: Tensor
    priority: int


@dataclass(slots=True)
class Rectangle:
    """Labels of a dim that was split in several: the kept set must be a product of one set per dim.

    Attributes:
        labels: As the dims are, those of size 1 left out.
        pin: Where it was split.
        free: Dims of which some indices may go; the code counts on every index of the others.
    """

    labels: Tensor
    pin: Pin
    free: tuple[int, ...]


def varying(labels: Tensor) -> tuple[int, ...]:
    """The dims along which a map varies."""
    return _varying(labels.shape)


@lru_cache(maxsize=4096)
def _varying(shape: torch.Size) -> tuple[int, ...]:
    return tuple(dim for dim, size in enumerate(shape) if size > 1)


def compress(labels: Tensor) -> Tensor:
    """Narrow to size 1 every dim along which the labels are constant."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1 and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    for dim in range(labels.dim()):
        size = labels.shape[dim]
        if size > 1:
            first = labels.narrow(dim, 0, 1)
            # most maps differ between the first and the last index: look there before comparing everything
            if torch.equal(labels.narrow(dim, size - 1, 1), first) and bool((labels == first).all()):
                labels = first
    if labels.untyped_storage().nbytes() > 2 * labels.numel() * labels.element_size():
        return labels.clone()  # or it would hold the memory of what it was narrowed from
    return labels


class Labels:
    """Collects what is known about labels while a program is walked."""

    def __init__(self) -> None:
        self.count = 1  # label 0 is ALWAYS
        self._leaves: dict[int, tuple[Tensor, int]] = {}
        self.edges: list[tuple[Tensor, Tensor]] = []
        self.pins: list[tuple[Tensor, Pin]] = []
        self.conditions: list[Condition] = []
        self.rectangles: list[Rectangle] = []
        self.inexact: list[tuple[Tensor, str]] = []

    def facts(self) -> tuple[list[Any], ...]:
        """What was collected so far, for :meth:`put_back`: solving adds to it."""
        return [*self.edges], [*self.pins], [*self.conditions], [*self.rectangles], [*self.inexact]

    def put_back(self, facts: tuple[list[Any], ...]) -> None:
        """Go back to what had been collected."""
        self.edges, self.pins, self.conditions, self.rectangles, self.inexact = map(list, facts)

    def fresh(self, shape: Sequence[int]) -> Tensor:
        """New labels, one per element of ``shape``."""
        size = 1
        for length in shape:
            size *= length
        labels = torch.arange(self.count, self.count + size, dtype=torch.int32).reshape(tuple(shape))
        self.count += size
        return labels

    def leaf(self, shape: Sequence[int]) -> Maps:
        """Maps of a tensor that is a source of labels: one per dim of size > 1."""
        maps = []
        for dim, size in enumerate(shape):
            if size > 1:
                view = [1] * len(shape)
                view[dim] = size
                maps.append(self.fresh(view))
                self._leaves[id(maps[-1])] = maps[-1], self.count - size
        return tuple(maps)

    def of(self, values: Tensor, labels: Tensor) -> Tensor:
        """``values[labels]``, flat, for one value per label; a view where the labels are those of a leaf."""
        leaf = self._leaves.get(id(labels))
        if leaf is not None:  # its labels follow each other
            return values[leaf[1] : leaf[1] + labels.numel()]
        return values[labels.reshape(-1).long()]

    def places(self, values: Tensor) -> tuple[Tensor, dict[int, tuple[int, int, int]]]:
        """Where something is true, for all leaves' maps at once.

        Args:
            values: One boolean per label.

        Returns:
            The labels for which it is true, in order; and for each leaf's map, by its id, the first label and where its
            own begin and end among these.
        """
        before = torch.cat([torch.zeros(1, dtype=torch.long), values.cumsum(0)])
        starts = [start for _, start in self._leaves.values()]
        ends = [start + labels.numel() for labels, start in self._leaves.values()]
        bounds = before[torch.tensor([starts, ends], dtype=torch.long)].tolist()
        return values.nonzero().flatten(), dict(zip(self._leaves, zip(starts, *bounds, strict=True), strict=True))

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Two labels at the same place are one channel."""
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)
        self.edges.append((a.reshape(-1), b.reshape(-1)))

    def tie(self, labels: Tensor, dims: Collection[int]) -> Tensor:
        """Labels along some dims can only stay or go together; returns the map without these dims (size 1)."""
        first = labels
        for dim in dims:
            first = first.narrow(dim, 0, 1)
        self.unite(labels, first)
        return first

    def pin(self, labels: Tensor, pin: Pin) -> None:
        """These labels are always kept."""
        self.pins.append((labels.reshape(-1), pin))

    def mark_inexact(self, labels: Tensor, why: str, dims: Collection[int]) -> None:
        """Dropping some of these labels changes the result for the others: a mean or norm runs over them.

        Args:
            labels: A map.
            why: What runs over them.
            dims: Along which dims. Labels that turn out to stay or go together along these are exact: no mean runs
                over some of them only.
        """
        over = [d for d in varying(labels) if d in dims]
        if over:
            rest = [d for d in range(labels.dim()) if d not in over]
            rows = labels.permute(*rest, *over).reshape(math.prod(labels.shape[d] for d in rest), -1)
            self.inexact.append((rows, why))

    def rectangle(self, labels: Tensor, pin: Pin, whole: int | None = None) -> None:
        """The kept set of ``labels`` must be a product of one set per dim, and hold every index of ``whole``."""
        dims = varying(labels)
        if len(dims) > 1:
            free = tuple(k for k, d in enumerate(dims) if d != whole)
            self.rectangles.append(Rectangle(labels.reshape([labels.shape[d] for d in dims]), pin, free))

    def condition(self, wide: Tensor, narrow: Tensor, priority: int) -> None:
        """``narrow`` (over some of the dims of ``wide``) meets ``wide``; decided by the solver."""
        shared = varying(narrow)
        rest = [d for d in varying(wide) if d not in shared]
        order = [*shared, *rest, *(d for d in range(wide.dim()) if d not in shared and d not in rest)]
        rows = narrow.numel()
        self.conditions.append(Condition(wide.permute(order).reshape(rows, -1), narrow.reshape(-1), priority))

    def meet(self, operands: Sequence[tuple[Maps, Sequence[int]]], pin: Pin, priority: int = 9) -> list[Tensor]:
        """Maps of several tensors that are combined elementwise (with broadcasting) in one joint space.

        Labels that meet are united; labels that meet a real dim without labels are pinned.

        Args:
            operands: Maps and shape of each, all with the joint space's number of dims.
            pin: Recorded where labels meet an unlabelled dim.
            priority: Of the conditions that arise.

        Returns:
            The maps that the result carries.
        """
        covered = [{d for labels in maps for d in varying(labels)} for maps, _ in operands]
        live: list[tuple[int, Tensor, set[int]]] = []
        for k, (maps, _) in enumerate(operands):
            for labels in maps:
                left = self._meet_unlabelled(labels, k, operands, covered, pin)
                if left is not None:
                    live.append((k, *left))
        live.sort(key=lambda entry: (-len(entry[2]), entry[0]))  # the widest map is carried on
        result: list[tuple[int, Tensor]] = []
        for k, labels, dims in live:
            carried = not dims
            for other, kept in result:
                shared = dims & set(varying(kept))
                if other == k or not shared:
                    continue  # two maps of one tensor are independent of each other
                if dims == set(varying(kept)):
                    self.unite(labels, kept)
                    carried = True
                elif dims < set(varying(kept)):
                    self.condition(kept, labels, priority)
                    carried = True
                else:
                    both = self.fresh([size if d in shared else 1 for d, size in enumerate(labels.shape)])
                    self.condition(labels, both, priority)
                    self.condition(kept, both, priority)
            if not carried:
                result.append((k, labels))
        return [labels for _, labels in result]

    def _meet_unlabelled(
        self,
        labels: Tensor,
        k: int,
        operands: Sequence[tuple[Maps, Sequence[int]]],
        covered: Sequence[set[int]],
        pin: Pin,
    ) -> tuple[Tensor, set[int]] | None:
        """A map and its dims, after it has met the dims without labels; ``None`` where it ends there."""
        dims = set(varying(labels))
        for other, (_, shape) in enumerate(operands):
            if other == k:
                continue
            bare = {d for d in dims if shape[d] > 1} - covered[other]
            if not bare:
                continue
            if bare == dims:
                self.pin(labels, pin)
                return None
            tied = labels
            for d in bare:  # every index along a bare dim stays, so only the other dims may still differ
                tied = tied.narrow(d, 0, 1)
            self.unite(labels, tied)
            labels, dims = tied, dims - bare
        return labels, dims

    def end(self, maps: Sequence[Tensor], dims: set[int], why: str | None, priority: int = 5) -> list[Tensor]:
        """Reduce over ``dims`` (which stay, with size 1).

        Args:
            maps: Maps of what is reduced.
            dims: The reduced dims.
            why: Reason by which dropping a reduced channel changes the rest (a mean); ``None`` for a contraction with a
                weight, where a dropped channel just adds nothing.
            priority: Of the conditions that arise.

        Returns:
            The maps that are left.
        """
        result = []
        for labels in maps:
            over = set(varying(labels))
            if not over & dims:
                result.append(labels)
                continue
            if why is not None:
                self.mark_inexact(labels, why, dims)
            free = over - dims
            if not free:
                continue
            rest = self.fresh([size if d in free else 1 for d, size in enumerate(labels.shape)])
            # what it met first decides: contracted channels that are united per row leave the rows as they are
            self.condition(labels, rest, priority + 1)
            result.append(rest)
        return result
