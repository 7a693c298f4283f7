"""Which channels the proof keeps: at the smallest widths, a random number of the first ones, and random ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_channels.units import MutableChannelUnit

__all__ = ["Draw", "make_draws"]

_TRIES = 8
_MOST, _SPREAD = 0.2, 24
"""Random numbers of channels are below this share, but from a range of at least so many."""
_WIDE = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """One choice of channels for every unit.

    Attributes:
        name: What it is, in words.
        kept: id of a unit → the channels that are kept, inside one of the equal tiles of the unit.
    """

    name: str
    kept: dict[int, Tensor]

    def set(self, unit: MutableChannelUnit) -> None:
        """Narrow a unit to its channels of this draw, in every tile the same."""
        inside = unit.num_channels // unit.groups
        kept = self.kept[id(unit)]
        unit.keep(torch.cat([kept + tile * inside for tile in range(unit.groups)]))


def make_draws(units: Iterable[MutableChannelUnit], wide: bool = False) -> list[Draw]:
    """Random channels, a random number of the first ones, and the first alone.

    Random numbers are small more often than not, which makes the proof cheap (most of all those of the draw that most
    is done with), and they are as different from each other as can be: where sizes agree by chance, sizes that were
    mixed up go unnoticed. For the same reason none is a half.

    Args:
        units: What is drawn for.
        wide: Whether the first draw keeps more than half: of a model that ranks its results, since with few channels
            scores lie so close together that rounding decides about their order.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    any_, first, smallest = Draw("random channels", {}), Draw("the first channels", {}), Draw("one channel", {})
    taken: set[int] = set()
    for unit in units:
        inside = unit.num_channels // unit.groups
        smallest.kept[id(unit)] = torch.tensor([0])
        first.kept[id(unit)] = torch.arange(_size(inside, False, taken, generator))
        any_.kept[id(unit)] = _choose(inside, _size(inside, wide, taken, generator), generator)
    return [any_, first, smallest]


def _size(inside: int, wide: bool, taken: set[int], generator: torch.Generator) -> int:
    """A number of channels, if possible one that no unit has yet."""
    low = inside // 2 + 1 if wide and inside > 2 else _least(inside)
    high = inside * _WIDE if wide else min(inside, max(low + _SPREAD, inside * _MOST))
    sizes = []
    for _ in range(_TRIES):
        part = float(torch.rand((), generator=generator, device="cpu")) ** 3
        size = low + int(part * max(0.0, high - low))
        if 2 * size == inside and inside > 3:
            size += 1
        if size not in taken:
            taken.add(size)
            return size
        sizes.append(size)
    return sizes[0]


def _least(inside: int) -> int:
    """One channel alone is a draw of its own: a norm over it gives a constant, and nothing can be out of order."""
    return max(3, inside // 32) if inside > 5 else 2 if inside > 3 else 1


def _choose(inside: int, size: int, generator: torch.Generator) -> Tensor:
    """Random channels: not the first ones, and of both halves, but not as many of the one as of the other."""
    order = torch.randperm(inside, generator=generator, device="cpu").tolist()
    chosen, rest = order[:size], order[size:]
    half = inside // 2
    low = sum(channel < half for channel in chosen)
    if size > 2 and (low == 0 or low == size or 2 * low == size):
        leaving = next(k for k, channel in enumerate(chosen) if (channel < half) == (low > 0))
        coming = next(k for k, channel in enumerate(rest) if (channel < half) != (low > 0))
        chosen[leaving] = rest[coming]
    chosen.sort()
    if chosen[-1] == size - 1:
        chosen[-1] = inside - 1
    return torch.tensor(chosen)
