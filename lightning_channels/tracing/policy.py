"""What may go of an attention: whole heads, the same places of each, or both, apart from each other.

Which places of a product of activations belong together is a choice where the code allows for either. So for ``"both"``
the labels are solved twice: what then is a head's group and a place's group lies on the same sides, and a channel is
kept where its head and its place are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels.tracing.grouping import Group, group_sides
from lightning_channels.tracing.joining import join
from lightning_channels.tracing.labels import Pin
from lightning_channels.tracing.sides import Side, disagreeing_sides
from lightning_channels.tracing.sizes import Attributes
from lightning_channels.tracing.solver import Attention, Policy, Solution, extend, solve
from lightning_channels.tracing.walk import Walk

__all__ = ["find_groups"]


def find_groups(
    model: nn.Module, walks: list[Walk], sides: list[Side], attention: Attention
) -> tuple[list[Solution], list[Group]]:
    """Solve the labels of a walked model, and group its sides.

    Args:
        model: The traced model.
        walks: Of its programs; they share their labels.
        sides: Of its modules.
        attention: What may go of an attention.

    Returns:
        One solution, or the heads' and the places'; and the groups, the classes of which are numbered through both.
    """
    walks = [walk for walk in walks if not walk.is_repetition]
    attributes = Attributes(model, walks)
    if attention == "heads":
        heads, groups = _solved(model, walks, sides, attributes, "heads", in_place=False)
        return [heads], groups
    labels, both = walks[0].labels, attention == "both"
    facts = labels.facts()
    dims, others = _solved(model, walks, sides, attributes, "dims", in_place=both)
    found = labels.facts()
    labels.put_back(facts)
    heads, groups = _solved(model, walks, sides, attributes, "heads", in_place=both)
    _take_from(others, groups)
    if both:
        return [heads, dims], _crossed(groups, others, heads.root)
    labels.put_back(found)
    return [dims], others


def _solved(
    model: nn.Module, walks: list[Walk], sides: list[Side], attributes: Attributes, policy: Policy, in_place: bool
) -> tuple[Solution, list[Group]]:
    labels = walks[0].labels
    solution = solve(labels, policy)
    if join(model, walks, solution, in_place):
        solution = extend(labels, solution)
    if attributes.join(labels, solution):
        solution = extend(labels, solution)
    for side in disagreeing_sides(sides, solution.root):
        labels.pin(side.labels, Pin(f"the tensors of {side.module}'s {side.key} belong to different channels"))
        solution = extend(labels, solution)
    groups = group_sides(sides, solution)
    attributes.give(solution, groups)
    return solution, groups


def _crossed(groups: list[Group], others: list[Group], root: Tensor) -> list[Group]:
    """The groups, and after each the others that part its channels in another way.

    Args:
        groups: One for each set of channels.
        others: By the other policy; most of them are the same.
        root: Label → class of ``groups``.
    """
    owner = torch.full((len(root),), -1)
    for number, group in enumerate(groups):
        owner[group.classes] = number
    known = {_place(group) for group in groups}
    found: list[list[Group]] = [[] for _ in groups]
    for other in others:
        if other.pin is None and _place(other) not in known:
            labels = torch.cat([run.side.labels[run.start : run.end] for run in other.runs])
            crossed = owner[root[labels.long()]].unique().tolist()
            if len(crossed) == 1:  # with channels of other groups as well, it doesn't part these alone
                other.crossing, other.classes = True, other.classes + len(root)
                found[crossed[0]].append(other)
    return [group for own, crossing in zip(groups, found, strict=True) for group in (own, *crossing)]


def _take_from(others: list[Group], groups: list[Group]) -> None:
    """Leave to heads the numbers that count them: by chance these may be as many as the places in them."""
    counted = {
        (run.side.module, run.side.key)
        for group in groups
        if any(run.expand_ratio > 1 for run in group.runs)
        for run in group.attributes
        if run.end - run.start == group.num_channels
    }
    known = {_place(group) for group in groups}
    for other in others:
        if _place(other) not in known:
            other.attributes = [run for run in other.attributes if (run.side.module, run.side.key) not in counted]


def _place(group: Group) -> tuple[Any, ...]:
    """Where a group's channels are, and which of them go together."""
    runs = ((r.side.module, r.side.key, r.start, r.end, r.expand_ratio, tuple(r.index or ())) for r in group.runs)
    return group.num_channels, group.tile, tuple(runs)
