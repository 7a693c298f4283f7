"""Which units feed which: a module that reads one and writes another is a wire between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_channels.units import MutableChannelUnit

__all__ = ["Wire", "find_wires"]


@dataclass(frozen=True, slots=True)
class Wire:
    """Modules between two units.

    Attributes:
        source: Place of the unit that they read.
        target: Place of the unit that they write.
        modules: Their dotted names.
    """

    source: int
    target: int
    modules: tuple[str, ...]

    @property
    def returns(self) -> bool:
        """Whether it leads to a unit that comes earlier in the network, as the end of a residual block does."""
        return self.target < self.source


def find_wires(units: Sequence[MutableChannelUnit]) -> list[Wire]:
    """The wires between units, in their order.

    A module with the same units on both sides, such as a norm, a depthwise convolution or a convolution that keeps its
    input's channels, is none.

    Args:
        units: In the order of the network.
    """
    sides: dict[str, tuple[dict[int, None], dict[int, None]]] = {}
    for number, unit in enumerate(units):
        for channel in unit.channels:
            sides.setdefault(channel.name, ({}, {}))[channel.is_output_channel][number] = None
    found: dict[tuple[int, int], list[str]] = {}
    for module, (read, written) in sides.items():
        if read.keys() == written.keys():
            continue
        for source in read:
            for target in written:
                if source != target:
                    found.setdefault((source, target), []).append(module)
    return [Wire(*ends, tuple(found[ends])) for ends in sorted(found)]
