"""Classes of labels → groups of channels that can only change together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from lightning_channels.tracing.labels import Pin
from lightning_channels.tracing.sides import Side
from lightning_channels.tracing.solver import Solution

__all__ = ["Block", "Group", "Run", "group_sides", "runs_of", "stretches"]


T = TypeVar("T")


@dataclass(slots=True)
class Run:
    """Consecutive positions of a side that belong to one group.

    Attributes:
        side: The side.
        start: First position.
        end: One past the last.
        expand_ratio: How often each of the group's channels is repeated, one after the other.
        index: The group's channel at each position, where it isn't each channel ``expand_ratio`` times in order.
    """

    side: Side
    start: int
    end: int
    expand_ratio: int = 1
    index: list[int] | None = None


@dataclass(slots=True)
class Group:
    """Channels that depend on each other.

    Attributes:
        num_channels: How many there are.
        classes: Class of labels of each channel of one tile, shape (num_channels / tile,).
        tile: Number of equal tiles that must keep the same channels (groups of a convolution); 1 without such a
            constraint.
        runs: Where they are.
        attributes: Where integer attributes of modules count them.
        pin: Why they can't change, if they can't.
        inexact: Why dropping some changes the result for the others, if it does.
        crossing: Whether the channels are another group's as well: that one's are heads, and these the places in each.
    """

    num_channels: int
    classes: Tensor
    tile: int = 1
    runs: list[Run] = field(default_factory=list)
    attributes: list[Run] = field(default_factory=list)
    pin: Pin | None = None
    inexact: str | None = None
    crossing: bool = False


_SINGLE = Pin("its channels can only be kept or dropped all together")


def group_sides(sides: list[Side], solution: Solution) -> list[Group]:
    """Group the channels of all sides.

    Args:
        sides: In the order that decides the order and the names of the groups.
        solution: Classes of the labels.

    Returns:
        The groups, ordered by the first side that they are on (outputs before inputs).
    """
    roots = [solution.root[side.labels.long()] for side in sides]
    if not roots:
        return []
    members = _classes_by_signature(sides, roots, solution.pinned)
    group_of = torch.full((len(solution.root),), -1, dtype=torch.long)
    rank = torch.zeros_like(group_of)
    groups = []
    for number, classes in enumerate(members):
        group_of[classes], rank[classes] = number, torch.arange(len(classes))
        labels = classes.tolist()
        pin = _first(solution.reasons, labels)
        inexact = _first(solution.inexact, labels) if pin is None else None
        groups.append(
            Group(len(labels), classes, pin=_SINGLE if pin is None and len(labels) == 1 else pin, inexact=inexact)
        )
    blocks: list[list[Block]] = [[] for _ in groups]
    for side, root in zip(sides, roots, strict=True):
        for start, end in stretches(group_of[root]):
            blocks[int(group_of[root[start]])].append(Block(side, start, end, rank[root[start:end]]))
    for group, own in zip(groups, blocks, strict=True):
        _add_runs(group, own)
    return groups


def _first(known: dict[int, T], classes: list[int]) -> T | None:
    return next((known[c] for c in classes if c in known), None) if known else None


@dataclass(slots=True)
class Block:
    """Consecutive positions of a side that belong to one group, with the channel (counted from 0) at each."""

    side: Side
    start: int
    end: int
    classes: Tensor


def _classes_by_signature(sides: list[Side], roots: list[Tensor], pinned: Tensor) -> list[Tensor]:
    """Classes that are on the same sides (and alike pinned) form a group; ordered as they come on its first side."""
    count = len(roots)
    # one random number a side: the sum over a class's sides tells one set of sides from another
    keys = torch.randint(-(2**62), 2**62, (count + 1,), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    signature = torch.where(pinned, keys[count], 0)
    for key, root in zip(keys, roots, strict=False):
        signature[root] = signature[root] + key  # once, however often the class is on the side
    every = torch.cat(roots)
    numbers = [number if side.is_output else number + count for number, side in enumerate(sides)]
    places = [
        torch.arange(number * 2**32, number * 2**32 + len(root)) for number, root in zip(numbers, roots, strict=True)
    ]
    first = torch.full((len(pinned),), torch.iinfo(torch.long).max).scatter_reduce_(0, every, torch.cat(places), "amin")
    is_on = torch.zeros(len(pinned), dtype=torch.bool)
    is_on[every] = True
    classes = is_on.nonzero().flatten()
    classes = classes[first[classes].argsort()]
    _, group, sizes = signature[classes].unique(return_inverse=True, return_counts=True)
    members = list(classes[group.argsort(stable=True)].split(sizes.tolist()))
    return sorted(members, key=lambda classes: _place(int(first[classes[0]]), sides))


def _place(first: int, sides: list[Side]) -> tuple[int, int]:
    """Where a group stands in the list: by its first side, whether that is an output or an input."""
    return (first >> 32) % len(sides), first & (2**32 - 1)


def stretches(groups: Tensor) -> list[tuple[int, int]]:
    """(start, end) of the stretches of equal numbers."""
    if len(groups) and bool((groups == groups[0]).all()):
        return [(0, len(groups))]
    _, lengths = groups.unique_consecutive(return_counts=True)
    ends = lengths.cumsum(0).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _add_runs(group: Group, blocks: list[Block]) -> None:
    """Lay the group's channels out on its sides; a pattern that all sides repeat becomes a tile constraint."""
    width = group.num_channels
    sequences: dict[int, list[Block]] = {}
    for block in blocks:
        sequences.setdefault(id(block.side), []).append(block)
    joined = [torch.cat([b.classes for b in own]) for own in sequences.values()]
    tile = 0
    for sequence in joined:
        tile = math.gcd(tile, _repeats(sequence, width))
        if tile == 1:
            break
    group.tile, group.num_channels = tile, width * tile
    for own, sequence in zip(sequences.values(), joined, strict=True):
        if tile == 1 and len(own) == 1:
            group.runs += runs_of(own[0], sequence, width)
            continue
        period = len(sequence) // tile
        channels = sequence + torch.arange(len(sequence)) // period * width
        begin = 0
        for block in own:
            length = block.end - block.start
            group.runs += runs_of(block, channels[begin : begin + length], group.num_channels)
            begin += length


def _repeats(sequence: Tensor, width: int) -> int:
    """How many equal tiles a sequence of classes consists of."""
    times = len(sequence) // width
    for tiles in range(times, 1, -1):
        if len(sequence) % tiles == 0:
            rows = sequence.reshape(tiles, -1)
            if bool((rows == rows[:1]).all()):
                return tiles
    return 1


def runs_of(block: Block, channels: Tensor, width: int) -> list[Run]:
    """Cut a block into runs that list every channel in order, as far as it does that."""
    if len(channels) == width and torch.equal(channels, torch.arange(width)):
        return [Run(block.side, block.start, block.end)]
    ends = ((channels[:-1] == width - 1) & (channels[1:] == 0)).nonzero().flatten().add(1).tolist()
    runs = []
    for start, end in zip([0, *ends], [*ends, len(channels)], strict=True):
        piece = channels[start:end]
        times = len(piece) // width
        regular = times >= 1 and torch.equal(piece, torch.arange(width).repeat_interleave(times))
        index = None if regular else piece.tolist()
        runs.append(Run(block.side, block.start + start, block.start + end, times if regular else 1, index))
    return runs
