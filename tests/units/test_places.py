"""A unit's lists of channels, before and after they are packed."""

from __future__ import annotations

import copy
import pickle

import pytest

from lightning_channels.units import Channel, MutableChannelUnit

CHANNELS = [
    Channel("conv", 0, 4),
    Channel("linear", 8, 24, True, 4),
    Channel("linear", 0, 3, index=(3, 0, 2)),
    Channel("block.1", 0, 4, tensor="gamma", dim=1),
    Channel("heads", 0, 4, crossing=True),
    Channel("", 2, 6, False),
    Channel("attention", 0, 4, False, attribute="splits[0]"),
]


def unit_of(outputs: list[Channel], inputs: list[Channel], attributes: list[Channel]) -> MutableChannelUnit:
    unit = MutableChannelUnit(4)
    unit.output_related, unit.input_related, unit.attributes = outputs, inputs, attributes
    return unit


@pytest.mark.parametrize("copied", [lambda unit: unit, copy.deepcopy, lambda unit: pickle.loads(pickle.dumps(unit))])
def test_packed_channels_come_back_as_they_were(copied: object) -> None:
    assert callable(copied)
    unit = unit_of(CHANNELS[:5], CHANNELS[5:6], CHANNELS[6:])
    shown = (repr(unit), unit.name, unit.config_template(True, True), unit.is_mutable, unit.can_change)
    unit.pack()
    unit.pack()  # packed already
    unit = copied(unit)
    assert unit.output_related == CHANNELS[:5]
    assert unit.input_related == CHANNELS[5:6]
    assert unit.attributes == CHANNELS[6:]
    assert unit.channels == CHANNELS[:6]
    assert shown == (repr(unit), unit.name, unit.config_template(True, True), unit.is_mutable, unit.can_change)


def test_lists_of_a_packed_unit_can_be_set() -> None:
    unit = unit_of(CHANNELS[:1], CHANNELS[5:6], [])
    unit.pack()
    unit.output_related.append(CHANNELS[1])  # to a copy
    assert (unit.output_related, unit.is_mutable) == (CHANNELS[:1], True)
    unit.input_related = []
    assert (unit.output_related, unit.input_related, unit.is_mutable) == (CHANNELS[:1], [], False)
    unit.output_related.append(CHANNELS[1])  # to the list that it holds again
    assert unit.channels == CHANNELS[:2]


def test_what_a_unit_can_do_needs_no_channel_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked of every unit in every step."""
    unit = unit_of(CHANNELS[:1], CHANNELS[5:6], [])
    unit.pack()
    unit.name  # is made from the channels once
    monkeypatch.setattr(type(unit._lists), "unpacked", None)
    unit.current_choice = unit.sample_choice()
    assert unit.is_mutable
    assert unit.can_change
