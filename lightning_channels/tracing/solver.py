"""Turns edges, pins, conditions and rectangles into classes of labels, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_channels.tracing.labels import ALWAYS, Condition, Labels, Pin, Rectangle

__all__ = ["ATTENTION", "Attention", "Policy", "Solution", "extend", "solve"]

Policy = Literal["heads", "dims"]
"""What can go of a product of activations that runs in several heads: whole heads, or the same places of each."""

Attention = Literal["heads", "dims", "both"]
ATTENTION: tuple[Attention, ...] = get_args(Attention)
"""The policies, and both of them apart from each other."""

_PRODUCTS = 2  # conditions of at most this priority come from such products

_UNLABELLED = Pin("is joined with indices that come from no channel")


@dataclass(slots=True)
class Solution:
    """Classes of labels.

    Attributes:
        root: Label → class (the smallest label in it), int64.
        pinned: Class → whether it must stay.
        reasons: Class → why it must stay (the first reason found).
        inexact: Class → why dropping it changes the rest.
        components: What the classes were made with, to go on from.
    """

    root: Tensor
    pinned: Tensor
    reasons: dict[int, Pin]
    inexact: dict[int, str]
    components: _Components


class _Components:
    """Incremental connected components: only edges added since the last call are looked at."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._edges_done = 0
        self.root = torch.arange(labels.count)

    def separate_always(self) -> None:
        """Take ``ALWAYS`` out of the edges that weren't looked at yet."""
        edges = self._labels.edges
        for number in range(self._edges_done, len(edges)):
            edges[number] = _without_always(self._labels, *edges[number])

    def update(self) -> Tensor:
        new = self._labels.edges[self._edges_done :]
        self._edges_done += len(new)
        if not new:
            return self.root
        a = self.root[torch.cat([edge[0] for edge in new]).long()]
        b = self.root[torch.cat([edge[1] for edge in new]).long()]
        while True:
            differ = a != b
            if not bool(differ.any()):
                return self.root
            a, b = a[differ], b[differ]
            low, high = torch.minimum(a, b), torch.maximum(a, b)
            self.root.scatter_reduce_(0, high, low, "amin")
            while True:  # pointer jumping until every label points at its root
                jumped = self.root[self.root]
                if torch.equal(jumped, self.root):
                    break
                self.root = jumped
            a, b = self.root[low], self.root[high]


def solve(labels: Labels, policy: Policy = "heads") -> Solution:
    """Find the classes of a walked program's labels.

    Args:
        labels: What the rules collected. Edges that conditions and rectangles turn into are added to it.
        policy: What is left free where the code allows for either.
    """
    _separate_always(labels)
    components = _Components(labels)
    return _finish(labels, components, _decide_conditions(labels, components, policy))


def extend(labels: Labels, solution: Solution) -> Solution:
    """Classes after more labels were united or pinned: what was decided before stays.

    Args:
        labels: What ``solution`` was found for, with more edges and pins.
        solution: It isn't of use any more.
    """
    components = solution.components
    components.separate_always()
    return _finish(labels, components, _pinned(labels, components.update()))


def _finish(labels: Labels, components: _Components, pinned: Tensor) -> Solution:
    for _ in range(8):  # tying one rectangle can break another
        if not _tie_rectangles(labels.rectangles, labels, components, pinned):
            break
        pinned = _pinned(labels, components.update())
    root = components.update().clone()
    pinned = _pinned(labels, root)
    reasons: dict[int, Pin] = {}
    for which, pin in labels.pins:
        for label in root[which.long()].unique().tolist():
            reasons.setdefault(label, pin)
    return Solution(root, pinned, reasons, _inexact(labels, root), components)


def _inexact(labels: Labels, root: Tensor) -> dict[int, str]:
    """Class → why dropping it changes the rest. A row of labels that is a single class goes as a whole, exactly."""
    found: dict[int, str] = {}
    seen = torch.zeros(labels.count, dtype=torch.bool)
    for rows, why in labels.inexact:
        classes = root[rows.long()]
        classes = classes[(classes != classes[:, :1]).any(1)].flatten()
        classes = classes[~seen[classes]]
        seen[classes] = True
        found |= dict.fromkeys(classes.tolist(), why)
    return found


def _separate_always(labels: Labels) -> None:
    """Joining a channel with ``ALWAYS`` pins it; as an edge it would join all pinned channels with each other."""
    if labels.edges:
        a, b = (torch.cat(ends) for ends in zip(*labels.edges, strict=True))
        labels.edges = [_without_always(labels, a, b)]


def _pinned(labels: Labels, root: Tensor) -> Tensor:
    pinned = torch.zeros(labels.count, dtype=torch.bool)
    pinned[ALWAYS] = True
    if labels.pins:
        pinned[root[torch.cat([which for which, _ in labels.pins]).long()]] = True
    return pinned


def _decide_conditions(labels: Labels, components: _Components, policy: Policy) -> Tensor:
    """Decide each condition as soon as its classes allow; where none does, by priority."""
    waiting = list(labels.conditions)
    while waiting:
        root = components.update()
        pinned = _pinned(labels, root)
        left = [c for c in waiting if not _decide(c, labels, root, pinned)]
        if len(left) == len(waiting):
            first = min(c.priority for c in left)
            for c in left:
                if c.priority == first:  # whole rows stay or go, or the same places of all rows
                    by_place = policy == "dims" and first <= _PRODUCTS
                    _unite(labels, c.wide, c.wide[:1] if by_place else c.wide[:, :1])
        waiting = left
    return _pinned(labels, components.update())


def _decide(condition: Condition, labels: Labels, root: Tensor, pinned: Tensor) -> bool:
    wide = root[condition.wide.long()]
    if bool((wide == wide[:, :1]).all()):
        _unite(labels, condition.narrow, condition.wide[:, 0])
    elif bool((wide == wide[:1]).all()):
        labels.pin(condition.narrow, Pin("every index of it is read together with another dim"))
    elif bool(pinned[root[condition.narrow.long()]].all()):
        _unite(labels, condition.wide, condition.wide[:1])
    else:
        return False
    return True


def _unite(labels: Labels, a: Tensor, b: Tensor) -> None:
    labels.unite(a, b)
    labels.edges[-1] = _without_always(labels, *labels.edges[-1])


def _without_always(labels: Labels, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Edges but for those with ``ALWAYS``, which pin what is at their other end."""
    always = (a == ALWAYS) | (b == ALWAYS)
    if not bool(always.any()):
        return a, b
    labels.pin(torch.maximum(a, b)[always], _UNLABELLED)
    return a[~always], b[~always]


def _tie_rectangles(rectangles: list[Rectangle], labels: Labels, components: _Components, pinned: Tensor) -> bool:
    root = components.update()
    tied = False
    for rectangle in rectangles:
        classes = root[rectangle.labels.long()]
        if bool(pinned[classes].all()) or any(_constant_but(classes, free) for free in rectangle.free):
            continue
        free = max(rectangle.free, key=lambda d: classes.shape[d])  # the largest dim keeps its freedom
        first = rectangle.labels
        for dim in range(first.dim()):
            if dim != free:
                first = first.narrow(dim, 0, 1)
        _unite(labels, rectangle.labels, first)
        tied = True
    return tied


def _constant_but(classes: Tensor, free: int) -> bool:
    return all(bool((classes == classes.narrow(d, 0, 1)).all()) for d in range(classes.dim()) if d != free)
