"""Which channels a choice keeps: those of highest score, in every group the same."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

from lightning_channels.errors import ChoiceError
from lightning_channels.units import (
    MutableChannelUnit,
    OneShotMutableChannelUnit,
    SequentialMutableChannelUnit,
    SlimmableChannelUnit,
)

SCORES = [0.1, 5.0, 3.0, 4.0, 0.2, 6.0, 3.0, 1.0]
"""Channels by importance: 5, 1, 3, 2 (as 6, and before it), 6, 7, 4, 0."""


def kept(unit: MutableChannelUnit) -> list[int]:
    channels: list[int] = unit.mutable_channel.kept.tolist()
    return channels


@pytest.mark.parametrize("make", [MutableChannelUnit, SequentialMutableChannelUnit])
def test_a_choice_keeps_the_channels_of_highest_score(make: Any) -> None:
    unit = make(8)
    unit.current_choice = 3
    unit.rank(SCORES)
    assert kept(unit) == [0, 1, 2]  # until the next choice
    unit.current_choice = 4
    assert kept(unit) == unit.kept == [1, 2, 3, 5]
    unit.keep_first(1)
    assert kept(unit) == [5]
    assert unit.order == [5, 1, 3, 2, 6, 7, 4, 0]
    unit.current_choice = 8
    assert (kept(unit), unit.kept) == (list(range(8)), None)
    unit.rank(None)
    unit.current_choice = 4
    assert (kept(unit), unit.kept, unit.order) == ([0, 1, 2, 3], None, None)


def test_the_channels_of_a_wider_choice_include_those_of_a_narrower_one() -> None:
    unit = MutableChannelUnit(8)
    unit.rank(torch.tensor(SCORES, dtype=torch.bfloat16, requires_grad=True))
    before: set[int] = set()
    for number in range(1, 9):
        unit.current_choice = number
        assert before < set(kept(unit))
        before = set(kept(unit))


def test_groups_keep_the_places_of_the_highest_sum() -> None:
    unit = MutableChannelUnit(8)
    unit.groups = 2
    unit.rank(SCORES)  # the places' sums: 0.3, 11, 6, 5
    unit.current_choice = 4
    assert kept(unit) == [1, 2, 5, 6]
    assert unit.order == [1, 2, 3, 0]


def test_rounding_stays_as_it_is() -> None:
    unit = SequentialMutableChannelUnit(8, choice_mode="ratio", divisor=4)
    unit.rank(SCORES)
    unit.current_choice = 0.3
    assert (unit.current_choice, kept(unit)) == (0.5, [1, 2, 3, 5])
    candidates = OneShotMutableChannelUnit(8, [2, 8], choice_mode="number")
    candidates.rank(SCORES)
    candidates.current_choice = 2
    assert kept(candidates) == [1, 5]
    with pytest.raises(ChoiceError, match="none of its candidates"):
        candidates.current_choice = 3


def test_candidates_of_a_slimmable_unit_keep_the_most_important_channels() -> None:
    unit = SlimmableChannelUnit(8, [2, 4, 4, 8])
    unit.rank(SCORES)
    unit.current_candidate = 1
    assert (unit.current_candidate, kept(unit)) == (1, [1, 2, 3, 5])
    unit.current_choice = 2
    assert (unit.current_candidate, kept(unit)) == (0, [1, 5])
    unit.current_choice = [0, 7]  # as many as a candidate has
    assert (unit.current_candidate, kept(unit)) == (0, [0, 7])
    unit.current_choice = [0, 6, 7]
    assert (unit.current_candidate, kept(unit)) == (None, [0, 6, 7])


def test_a_choice_can_say_which_channels() -> None:
    unit = SequentialMutableChannelUnit(8, divisor=4)
    for given in ([6, 1, 4], (1, 4, 6), torch.tensor([1, 4, 6])):
        unit.current_choice = 8
        unit.current_choice = given  # type: ignore[assignment]
        assert (kept(unit), unit.current_choice, unit.check_choice(given)) == ([1, 4, 6], 3, 3)  # type: ignore[arg-type]
    unit.keep([0, 1, 2])  # the first ones, but the choice 3 would be rounded
    assert unit.kept == [0, 1, 2]


def test_setting_the_same_choice_again_changes_nothing() -> None:
    unit = MutableChannelUnit(8)
    unit.rank(SCORES)
    unit.current_choice = 4
    selection = unit.mutable_channel.selection
    unit.current_choice = 4
    unit.keep([5, 3, 2, 1])
    assert unit.mutable_channel.selection is selection


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda unit: pickle.loads(pickle.dumps(unit))])
def test_copies_have_the_order(copied: Any) -> None:
    unit = MutableChannelUnit(8)
    unit.rank(SCORES)
    unit.current_choice = 2
    other = copied(unit)
    other.current_choice = 4
    assert (kept(other), kept(unit)) == ([1, 2, 3, 5], [1, 5])
    other.rank(None)
    assert unit.order is not None


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], r"unit 'unit_8' is ranked by 8 scores.*got a tensor of \(2,\)"),
        (torch.ones(2, 4), r"got a tensor of \(2, 4\)"),
        (torch.ones(8, dtype=torch.complex64), "complex64"),
        ([float("nan")] * 8, "score of channel 0 is NaN"),
        ("important", "a score for each channel, got 'important'"),
    ],
)
def test_scores_that_rank_nothing(scores: Any, message: str) -> None:
    unit = MutableChannelUnit(8)
    unit.rank(SCORES)
    with pytest.raises(ChoiceError, match=message):
        unit.rank(scores)
    assert unit.order == [5, 1, 3, 2, 6, 7, 4, 0]


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 1, 2], [0, 1, 2, 4], [0, 1, 2, 3.0], "0123", {0: 1}, [True, 0, 2, 3]])
def test_orders_that_are_none(order: Any) -> None:
    unit = MutableChannelUnit(4)
    with pytest.raises(ChoiceError, match="the order of unit 'unit_4' must"):
        unit.order = order
    assert unit.order is None


@pytest.mark.parametrize("choice", [[], [0, 0], [8], [-1], [0.5], ["0"], [10**30], [True], [[0]]])
def test_channels_that_cant_be_kept(choice: Any) -> None:
    unit = MutableChannelUnit(8)
    with pytest.raises(ChoiceError, match="unit 'unit_8'"):
        unit.current_choice = choice
    assert unit.mutable_channel.activated_channels == 8
