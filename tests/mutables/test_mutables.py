"""Mutables and derived mutables, alone and connected by containers."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import pytest
import torch

from lightning_channels.errors import ChoiceError, ConfigError, PrepareError
from lightning_channels.mutables import (
    BaseMutableChannel,
    DerivedMutableChannel,
    IndexSelection,
    MutableChannelContainer,
    SequentialMutableChannel,
    SimpleMutableChannel,
    SquentialMutableChannel,
    batch_update,
)


def test_the_two_spellings_are_one_class() -> None:
    assert SequentialMutableChannel is SquentialMutableChannel
    assert repr(SequentialMutableChannel(8)) == "SquentialMutableChannel(num_channels=8, activated_channels=8)"


@pytest.mark.parametrize(
    ("keep", "selection"),
    [
        (8, None),
        (3, 3),
        (range(8), None),
        ([0, 1, 2], 3),
        ([2, 0, 1], 3),
        ([True] * 2 + [False] * 6, 2),
        (torch.arange(5), 5),
        (torch.tensor(4), 4),
        (torch.tensor([5, 1], dtype=torch.int32), IndexSelection(torch.tensor([1, 5]))),
        (torch.tensor([False, True] * 4), IndexSelection(torch.tensor([1, 3, 5, 7]))),
    ],
)
def test_what_is_kept_takes_its_simplest_form(keep: object, selection: object) -> None:
    mutable = BaseMutableChannel(8)
    mutable.keep(keep)  # type: ignore[arg-type]
    assert mutable.selection == selection
    assert type(mutable.selection) is type(selection)
    assert torch.equal(mutable.current_mask.nonzero().flatten(), mutable.kept)
    assert mutable.activated_channels == len(mutable.kept)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (0, "cannot keep 0 channels; allowed are 1 to 8"),
        (9, "cannot keep 9 channels"),
        (-1, "cannot keep -1 channels"),
        (2.0, "keeps a number of channels, a list of channels or a bool mask; got 2.0"),
        (True, "got True"),
        (None, "got None"),
        ("3", "got '3'"),
        ([], "must keep at least one of its 8 channels"),
        ([1, 8], "has no channel 8; allowed are 0 to 7"),
        ([-1, 1], "has no channel -1"),
        ([3, 1, 3], "asked to keep channel 3 twice"),
        ([1, 2.5], "got 2.5"),
        (torch.zeros(8, dtype=torch.bool), "must keep at least one"),
        (torch.ones(7, dtype=torch.bool), "has 8 channels; the mask has 7 entries"),
        (torch.ones(2), r"got \(2,\) of torch.float32"),
        (torch.ones(2, 4, dtype=torch.bool), r"1-D tensor of whole numbers or bools; got \(2, 4\)"),
    ],
)
def test_what_cannot_be_kept(keep: object, message: str) -> None:
    mutable = SimpleMutableChannel(8, name="conv1")
    mutable.keep([0, 2])
    with pytest.raises(ChoiceError, match=f"conv1 .*{message}"):
        mutable.keep(keep)  # type: ignore[arg-type]
    assert mutable.kept.tolist() == [0, 2]


def test_the_choice_is_what_the_mutable_says() -> None:
    sequential, simple = SquentialMutableChannel(4), SimpleMutableChannel(4)
    sequential.current_choice = 2
    simple.current_choice = [1, 3]  # type: ignore[assignment]
    assert sequential.current_choice == 2
    assert simple.current_choice.tolist() == [False, True, False, True]
    for wrong in ([0, 1], torch.tensor([True, False, True, False]), "2"):
        with pytest.raises(ChoiceError, match=r"is a number of channels, got .*; keep\(\) takes which ones"):
            sequential.current_choice = wrong
    for wrong_number in (0, 5, 1.5, True):
        with pytest.raises(ChoiceError):
            sequential.current_choice = wrong_number
    assert sequential.current_choice == 2


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_sizes_are_positive_whole_numbers(size: object) -> None:
    for make in (SquentialMutableChannel, MutableChannelContainer, SquentialMutableChannel(4).expand_mutable_channel):
        with pytest.raises(ConfigError, match="must be a whole number of at least 1"):
            make(size)  # type: ignore[arg-type,operator]


def test_expanded_mutables_follow() -> None:
    source = SquentialMutableChannel(4)
    three = source.expand_mutable_channel(3)
    six = three.expand_mutable_channel(2)
    assert (three.num_channels, six.num_channels) == (12, 24)
    assert six.source is source
    source.current_choice = 2
    assert (three.selection, six.selection) == (6, 12)
    source.keep([0, 3])
    assert three.kept.tolist() == [0, 1, 2, 9, 10, 11]
    assert six.kept.tolist() == [0, 1, 2, 3, 4, 5, 18, 19, 20, 21, 22, 23]
    source.keep(4)
    assert (three.selection, six.selection) == (None, None)
    with pytest.raises(PrepareError, match=r"DerivedMutableChannel\(num_channels=12.* follows SquentialMutableChannel"):
        three.current_choice = 3


def test_irregular_positions() -> None:
    source = SquentialMutableChannel(3)
    derived = DerivedMutableChannel(source, [0, 1, 2, 0, 1, 2, 2])
    source.current_choice = 2
    assert derived.kept.tolist() == [0, 1, 3, 4]
    source.keep([2])
    assert derived.kept.tolist() == [2, 5, 6]
    with pytest.raises(ConfigError, match="must lie in 0 to 2"):
        DerivedMutableChannel(source, [0, 3])
    with pytest.raises(ConfigError, match="not empty"):
        DerivedMutableChannel(source, [])
    hidden = DerivedMutableChannel(source, [0, 1])
    with pytest.raises(ChoiceError, match="keeps none of the channels"):
        hidden.selection


def test_a_failed_batch_update_changes_nothing() -> None:
    first, second = SquentialMutableChannel(8), SquentialMutableChannel(8)
    container = MutableChannelContainer(16)
    container.register_mutable(first, 0, 8)
    container.register_mutable(second, 8, 16)
    first.keep([1, 2])

    def update(last: int) -> None:
        with batch_update():
            first.current_choice = 3
            first.current_choice = 4
            with batch_update():
                second.current_choice = 5
            second.current_choice = last

    with pytest.raises(ChoiceError):
        update(9)
    assert first.kept.tolist() == [1, 2]
    assert second.selection is None
    assert container.activated_channels == 10
    update(6)
    assert (first.selection, second.selection, container.activated_channels) == (4, 6, 10)
    with pytest.raises(ChoiceError):  # and after the block nothing is kept in mind
        second.current_choice = 0
    assert second.selection == 6


def chain(length: int) -> tuple[list[SquentialMutableChannel], list[MutableChannelContainer]]:
    """Containers of two mutables each, every one shared with the next: one long path through all of them."""
    mutables = [SquentialMutableChannel(4) for _ in range(length + 1)]
    containers = []
    for first, second in pairwise(mutables):
        container = MutableChannelContainer(12)
        container.register_mutable(first, 0, 4)
        container.register_mutable(second.expand_mutable_channel(2), 4, 12)
        containers.append(container)
    return mutables, containers


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("order", [1, -1])
def test_copies_are_connected_among_themselves_and_never_deep(way, order: int) -> None:
    mutables, containers = chain(2000)
    mutables[5].current_choice = 1
    others = way((mutables, containers)[::order])
    other_mutables, other_containers = others[::order]
    assert other_containers[5].activated_channels == 9
    other_mutables[5].current_choice = 2
    assert (other_containers[5].activated_channels, other_containers[4].activated_channels) == (10, 8)
    assert (containers[5].activated_channels, containers[4].activated_channels) == (9, 6)
    assert len(other_mutables[5]._dependents) == 2


def test_a_copy_from_inside_a_cycle_is_connected() -> None:
    class Unit:
        pass

    unit, mutable, container = Unit(), SquentialMutableChannel(4), MutableChannelContainer(4)
    unit.mutable, unit.containers, mutable.owner = mutable, [container], unit  # type: ignore[attr-defined]
    container.register_mutable(mutable)
    mutable.current_choice = 2
    copies = copy.deepcopy(unit), copy.deepcopy(mutable).owner, copy.deepcopy([container, unit])[1]
    for other in copies:
        assert other.containers[0].sel == 2  # type: ignore[attr-defined]
        other.mutable.current_choice = 3  # type: ignore[attr-defined]
        assert other.containers[0].sel == 3  # type: ignore[attr-defined]
    assert container.sel == 2


def test_indices_are_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        mutable = SquentialMutableChannel(6)
        container = MutableChannelContainer(12)
        container.register_mutable(mutable.expand_mutable_channel(2))
        mutable.keep([1, 5])
        assert container.kept.device.type == "cpu"
        assert container.kept.tolist() == [2, 3, 10, 11]
        assert container.current_mask.sum().item() == 4
