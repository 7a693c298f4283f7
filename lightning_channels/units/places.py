"""Where a unit's channels are: three lists, and how they are held once nothing is added to them any more."""

from __future__ import annotations

import dataclasses
from typing import Any

from lightning_channels._packed import Packed
from lightning_channels.units.channel import Channel

__all__ = ["ChannelLists", "PackedLists"]


class ChannelLists:
    """The channels on output sides, those on input sides, and the attributes that count them."""

    __slots__ = ("attributes", "input_related", "output_related")

    def __init__(self) -> None:
        self.output_related: list[Channel] = []
        self.input_related: list[Channel] = []
        self.attributes: list[Channel] = []

    @property
    def numbers(self) -> tuple[int, int, int]:
        """How many there are in each list."""
        return len(self.output_related), len(self.input_related), len(self.attributes)

    def unpacked(self) -> ChannelLists:
        """The lists."""
        return self


class PackedLists:
    """The same in a tenth of the memory, which counts in a densely connected net: it has ten thousand channels.

    Args:
        lists: To be held.
    """

    __slots__ = ("_packed", "numbers")

    def __init__(self, lists: ChannelLists) -> None:
        self.numbers = lists.numbers
        found = (lists.output_related, lists.input_related, lists.attributes)
        self._packed = Packed([[_row(channel) for channel in channels] for channels in found])

    def unpacked(self) -> ChannelLists:
        """The lists, made anew at each call."""
        lists = ChannelLists()
        found = [[_channel(row) for row in rows] for rows in self._packed.unpacked()]
        lists.output_related, lists.input_related, lists.attributes = found
        return lists


_FIELDS = dataclasses.fields(Channel)


def _row(channel: Channel) -> list[Any]:
    """The values of a channel up to the last that isn't the default."""
    values = [getattr(channel, field.name) for field in _FIELDS]
    while values[-1] == _FIELDS[len(values) - 1].default:
        values.pop()
    return values


def _channel(row: list[Any]) -> Channel:
    name, start, end, *rest = row
    if len(rest) > _INDEX and rest[_INDEX] is not None:
        rest[_INDEX] = tuple(rest[_INDEX])
    return Channel(name, start, end, *rest)


_INDEX = [field.name for field in _FIELDS].index("index") - 3
