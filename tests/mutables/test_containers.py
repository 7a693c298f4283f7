"""Containers: one side of a module, tiled with mutables, once or twice."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_channels.dynamic_ops import DynamicLinear
from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutables import (
    DerivedMutableChannel,
    IndexSelection,
    MutableChannelContainer,
    SimpleMutableChannel,
    SquentialMutableChannel,
)


def test_containers_are_tiled() -> None:
    container = MutableChannelContainer(10)
    first, last = SquentialMutableChannel(4), SquentialMutableChannel(3)
    container.register_mutable(last, 7, 10)
    container.register_mutable(first, 0, 4)
    assert list(container.mutable_channels) == [(0, 4), (7, 10)]
    assert container.sel is None
    last.current_choice = 1
    assert container.sel == 8  # all up to channel 7: still a prefix
    first.current_choice = 2
    assert container.kept.tolist() == [0, 1, 4, 5, 6, 7]
    first.keep([1, 3])
    assert container.kept.tolist() == [1, 3, 4, 5, 6, 7]
    assert container.activated_channels == 6
    assert repr(container) == "MutableChannelContainer(num_channels=10, activated_channels=6)"
    container.unregister(first)
    assert container.sel == 8
    first.current_choice = 1
    assert container.sel == 8
    container.clear()
    assert container.sel is None
    last.current_choice = 2
    assert container.sel is None


def test_one_mutable_in_two_places_of_a_container() -> None:
    container, mutable = MutableChannelContainer(8), SquentialMutableChannel(4)
    container.register_mutable(mutable, 0, 4)
    container.register_mutable(mutable, 4, 8)
    mutable.current_choice = 1
    assert container.kept.tolist() == [0, 4]
    container.unregister(mutable)
    assert container.sel is None


def test_registering_twice_is_registering_once() -> None:
    container, mutable = MutableChannelContainer(4), SquentialMutableChannel(4)
    container.register_mutable(mutable)
    container.register_mutable(mutable)
    container.unregister(mutable)
    mutable.current_choice = 1
    assert container.sel is None


@pytest.mark.parametrize(
    ("size", "start", "end", "message"),
    [
        (4, 6, 10, r"the range \(6, 10\) is not inside of \(0, 8\)"),
        (4, -1, 3, "is not inside of"),
        (4, 3, 3, "is not inside of"),
        (4, 4, 7, r"the range \(4, 7\) has 3 channels, unlike SquentialMutableChannel\(num_channels=4"),
        (4, 2, 6, r"the range \(2, 6\) overlaps \(0, 4\) of SquentialMutableChannel"),
        (4, 0, 4, r"overlaps \(0, 4\)"),
    ],
)
def test_ranges_that_do_not_fit(size: int, start: int, end: int, message: str) -> None:
    container = MutableChannelContainer(8)
    container.register_mutable(SquentialMutableChannel(4), 0, 4)
    with pytest.raises(ConfigError, match=message):
        container.register_mutable(SquentialMutableChannel(size), start, end)
    assert list(container.mutable_channels) == [(0, 4)]


def test_a_concatenation_is_registered_whole_or_not_at_all() -> None:
    container = MutableChannelContainer(12)
    before, first, second = SquentialMutableChannel(2), SquentialMutableChannel(4), SquentialMutableChannel(3)
    container.register_mutable(before, 0, 2)
    container.register_concatenation([first, second.expand_mutable_channel(2)], 2)
    assert list(container.mutable_channels) == [(0, 2), (2, 6), (6, 12)]
    second.keep([0, 2])
    first.current_choice = 1
    assert container.kept.tolist() == [0, 1, 2, 6, 7, 10, 11]

    other = MutableChannelContainer(12)
    other.register_mutable(before, 10, 12)
    with pytest.raises(ConfigError, match=r"the range \(8, 11\) overlaps \(10, 12\)"):
        other.register_concatenation([first, first, second])
    assert list(other.mutable_channels) == [(10, 12)]
    first.current_choice = 2
    before.current_choice = 1
    assert other.activated_channels == 11  # and it goes on following what it followed
    with pytest.raises(ConfigError, match="at least one mutable"):
        other.register_concatenation([])


def test_a_concatenation_on_a_dynamic_op() -> None:
    first, second = SquentialMutableChannel(4), SquentialMutableChannel(3)
    linear = DynamicLinear(10, 2)
    register = MutableChannelContainer.register_mutable_channel_to_module
    with pytest.raises(ConfigError, match=r"the range \(3, 9\) has 6 channels; the mutables have 7"):
        register(linear, [first, second], is_to_output_channel=False, start=3, end=9)
    register(linear, [first, second], is_to_output_channel=False, start=3, end=10)
    first.current_choice = 1
    assert linear.in_features == 7
    assert torch.equal(linear.weight, linear._parameters["weight"][:, [0, 1, 2, 3, 7, 8, 9]])


def crossed() -> tuple[MutableChannelContainer, SquentialMutableChannel, SquentialMutableChannel]:
    """Three heads of four places each, and who decides about the one and the other."""
    heads, places = SquentialMutableChannel(3), SquentialMutableChannel(4)
    container = MutableChannelContainer(12)
    container.register_mutable(DerivedMutableChannel(places, [0, 1, 2, 3] * 3), crossing=True)
    container.register_mutable(heads.expand_mutable_channel(4))
    return container, heads, places


def test_a_channel_is_kept_where_both_tilings_keep_it() -> None:
    container, heads, places = crossed()
    assert container.sel is None
    heads.current_choice = 2
    assert container.sel == 8
    places.keep([0, 3])
    assert container.kept.tolist() == [0, 3, 4, 7]
    heads.keep([0, 2])
    assert container.kept.tolist() == [0, 3, 8, 11]
    heads.current_choice = 3
    assert container.kept.tolist() == [0, 3, 4, 7, 8, 11]
    places.current_choice = 4
    assert container.sel is None


def test_a_crossing_mutable_comes_to_one_that_is_the_whole_side_and_goes_again() -> None:
    own, other = SquentialMutableChannel(6), SimpleMutableChannel(6)
    container = MutableChannelContainer(6)
    container.register_mutable(own)
    container.register_mutable(other, crossing=True)
    own.current_choice, other.current_choice = 4, [False, True, True, True, True, True]
    assert container.kept.tolist() == [1, 2, 3]
    own.current_choice = 2
    assert container.kept.tolist() == [1]
    container.unregister(other)
    own.current_choice = 5
    other.keep(1)
    assert container.sel == 5
    container.register_mutable(other, crossing=True)
    container.unregister(own)
    own.current_choice = 1
    other.keep(3)
    assert container.sel == 3
    container.clear()
    assert container.sel is None
    assert container.mutables == []


def test_tilings_that_have_nothing_in_common_are_an_error() -> None:
    own, other = SimpleMutableChannel(4), SimpleMutableChannel(4)
    container = MutableChannelContainer(4)
    container.register_mutable(own)
    container.register_mutable(other, crossing=True)
    own.keep([0, 1])
    other.keep([2, 3])
    with pytest.raises(ChoiceError, match="none of the 4 channels of this side is kept"):
        _ = container.sel


def test_each_tiling_has_its_own_ranges() -> None:
    container = MutableChannelContainer(8)
    container.register_mutable(SquentialMutableChannel(4), 0, 4)
    container.register_mutable(SquentialMutableChannel(4), 2, 6, crossing=True)
    with pytest.raises(ConfigError, match=r"the range \(5, 8\) overlaps \(2, 6\)"):
        container.register_mutable(SquentialMutableChannel(3), 5, 8, crossing=True)
    assert list(container.mutable_channels) == [(0, 4)]
    assert list(container.crossing_channels) == [(2, 6)]


def test_a_copy_keeps_both_tilings() -> None:
    container, heads, places = crossed()
    (twin, twin_heads, _), (_, again, _) = copy.deepcopy((container, heads, places)), (container, heads, places)
    twin_heads.current_choice = 1
    assert (twin.activated_channels, container.activated_channels) == (4, 12)
    again.current_choice, places.current_choice = 2, 3
    assert (twin.activated_channels, container.activated_channels) == (4, 6)


@st.composite
def tilings(draw: st.DrawFn) -> list[tuple[bool, int, int, list[int] | int]]:
    """(has a mutable, expand ratio, channels, what it keeps) of each tile"""
    tiles = []
    for _ in range(draw(st.integers(1, 5))):
        size, ratio = draw(st.integers(1, 6)), draw(st.integers(1, 3))
        subset = st.lists(st.integers(0, size - 1), min_size=1, unique=True)
        tiles.append((draw(st.booleans()), ratio, size, draw(st.one_of(st.integers(1, size), subset))))
    return tiles


@given(tilings())
def test_a_container_is_the_concatenation_of_its_tiles(tiles: list[tuple[bool, int, int, list[int] | int]]) -> None:
    container = MutableChannelContainer(sum(ratio * size for _, ratio, size, _ in tiles))
    masks: list[Tensor] = []
    start = 0
    for steered, ratio, size, keep in tiles:
        mask = torch.ones(size, dtype=torch.bool)
        if steered:
            mutable = SquentialMutableChannel(size)
            container.register_mutable(mutable if ratio == 1 else mutable.expand_mutable_channel(ratio), start)
            mutable.keep(keep)
            mask = torch.zeros(size, dtype=torch.bool)
            mask[list(range(keep)) if isinstance(keep, int) else keep] = True
        masks.append(mask.repeat_interleave(ratio))
        start += ratio * size
    expected = torch.cat(masks)
    assert torch.equal(container.current_mask, expected)
    assert container.activated_channels == expected.sum()
    prefix = bool((expected[: int(expected.sum())]).all())
    assert isinstance(container.sel, IndexSelection) != prefix
    assert (container.sel is None) == bool(expected.all())
