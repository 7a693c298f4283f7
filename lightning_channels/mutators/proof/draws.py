"""Which channels the proof keeps: at the smallest widths, a random number of the first ones, and random ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_channels.mutables import BaseMutableChannel
from lightning_channels.mutables.selection import Selection
from lightning_channels.units import MutableChannelUnit

__all__ = ["Draw", "make_draws"]

_SIZES = (7, 3, 11, 5, 13, 9, 4, 15, 6, 17, 10, 2)


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One choice of channels for every unit.

    Attributes:
        name: What it is, in words.
        kept: id of a unit → the channels that are kept, inside one of the equal tiles of the unit.
    """

    name: str
    kept: dict[int, Tensor]
    _selections: dict[int, Selection] = field(default_factory=dict)

    def set(self, unit: MutableChannelUnit) -> None:
        """Narrow a unit to its channels of this draw, in every tile the same."""
        if id(unit) in self._selections:
            unit.mutable_channel._set(self._selections[id(unit)])
            return
        inside = unit.num_channels // unit.groups
        kept = self.kept[id(unit)]
        probe = BaseMutableChannel(unit.num_channels)
        probe.keep(torch.cat([kept + tile * inside for tile in range(unit.groups)]))
        self._selections[id(unit)] = probe.selection
        unit.mutable_channel._set(probe.selection)


def make_draws(units: Iterable[MutableChannelUnit], wide: bool = False) -> list[Draw]:
    """Random channels, a number of the first ones, and the first alone.

    The numbers are small, and the same in both draws, so that kernels are made once: that keeps the proof cheap. Units
    that follow each other get different ones, because where sizes agree, sizes that were mixed up go unnoticed. For the
    same reason none is a half.

    Args:
        units: What is drawn for.
        wide: Whether the first draw keeps more than half: of a model that ranks its results, since with few channels
            scores lie so close together that rounding decides about their order.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    any_, first, smallest = Draw("random channels", {}), Draw("the first channels", {}), Draw("one channel", {})
    before = 0
    for number, unit in enumerate(units):
        inside = unit.num_channels // unit.groups
        smallest.kept[id(unit)] = torch.tensor([0])
        size = _most(inside, number) if wide else _size(inside, number)
        if size == before and inside > 2 and any(channel.crossing for channel in unit.channels):
            size = 2 if size != 2 else 1  # heads and places in them that are as many could be mistaken for each other
        before = size
        first.kept[id(unit)] = torch.arange(size)
        any_.kept[id(unit)] = _choose(inside, size, generator)
    return [any_, first, smallest]


def _size(inside: int, number: int) -> int:
    """One of several numbers of channels, in turn. One channel alone is a draw of its own: nothing is out of order."""
    fitting = [size for size in _SIZES if size < inside and 2 * size != inside]
    return fitting[number % len(fitting)] if fitting else max(1, inside - 1)


def _most(inside: int, number: int) -> int:
    """More than half of the channels, and not all."""
    return min(max(1, inside - 1), inside // 2 + 1 + number % max(1, inside // 3))


def _choose(inside: int, size: int, generator: torch.Generator) -> Tensor:
    """Random channels, of both halves, but not as many of the one as of the other.

    The second and the last are always among them, and the first never: code that cuts at any fixed number then cuts
    elsewhere than it should, and puts what it cut together in another order.
    """
    if size < 2 or inside < 4:
        return torch.arange(inside - size, inside)
    order = (torch.randperm(inside - 3, generator=generator, device="cpu") + 2).tolist()
    chosen, rest = order[: size - 2], order[size - 2 :]
    half = inside // 2
    low = 1 + sum(channel < half for channel in chosen)
    if size > 2 and 2 * low == size:
        leaving = next((k for k, channel in enumerate(chosen) if channel < half), None)
        coming = next((k for k, channel in enumerate(rest) if channel >= half), None)
        if leaving is not None and coming is not None:
            chosen[leaving] = rest[coming]
    return torch.tensor(sorted([1, *chosen, inside - 1]))
