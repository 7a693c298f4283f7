"""Rounding and checking of choices; the figures are the reference's."""

from __future__ import annotations

import math
import random

import pytest

from lightning_channels import (
    ChoiceError,
    ConfigError,
    MutableChannelUnit,
    OneShotMutableChannelUnit,
    SequentialMutableChannelUnit,
)


@pytest.mark.parametrize(
    ("channels", "mode", "choice", "becomes"),
    [
        (48, "number", 20, 24),
        (48, "ratio", 0.3, 1 / 3),
        (10, "number", 10, 10),
        (17, "number", 17, 17),
        (10, "ratio", 1, 1.0),
        (48, "number", 20.0, 24),
    ],
)
def test_rounding_to_a_divisor(channels: int, mode: str, choice: float, becomes: float) -> None:
    unit = SequentialMutableChannelUnit(channels, choice_mode=mode, divisor=8)
    unit.current_choice = choice
    assert unit.current_choice == becomes
    assert type(unit.current_choice) is (int if mode == "number" else float)


@pytest.mark.parametrize(
    ("mode", "given", "rounded"),
    [("number", [20, 30, 40], [24, 32, 40]), ("ratio", [0.7, 0.3, 0.5], [1 / 3, 0.5, 2 / 3])],
)
def test_candidates_are_rounded_and_sorted(mode: str, given: list[float], rounded: list[float]) -> None:
    unit = OneShotMutableChannelUnit(48, given, choice_mode=mode, divisor=8)
    assert unit.candidate_choices == rounded
    assert unit.current_choice == rounded[-1]
    assert unit.max_choice == rounded[-1]
    assert unit.min_choice == rounded[0]
    assert {unit.sample_choice(random.Random(i)) for i in range(50)} == set(rounded)


def test_no_candidates_means_the_full_width() -> None:
    assert OneShotMutableChannelUnit(12, [], choice_mode="number").candidate_choices == [12]


@pytest.mark.parametrize("channels", [1, 2, 3, 100, 240, 480, 960, 1440, 1920, 4096])
def test_every_ratio_comes_back(channels: int) -> None:
    unit = SequentialMutableChannelUnit(channels, choice_mode="ratio")
    for number in range(1, channels + 1):
        unit.current_choice = number / channels
        assert unit.mutable_channel.activated_channels == number
        assert unit.current_choice == number / channels


def test_every_ratio_of_every_width_is_the_right_number() -> None:
    for channels in range(1, 4097, 7):
        unit = SequentialMutableChannelUnit(channels, choice_mode="ratio")
        for number in {1, channels // 3 or 1, channels // 2 or 1, channels - 1 or 1, channels}:
            assert unit.number_of(number / channels) == number


@pytest.mark.parametrize("groups", [2, 3, 32])
@pytest.mark.parametrize("divisor", [1, 8])
def test_groups_round_to_the_nearest_allowed_number(groups: int, divisor: int) -> None:
    unit = SequentialMutableChannelUnit(96, divisor=divisor)
    unit.groups = groups
    for choice in range(1, 97):
        unit.current_choice = choice
        active = unit.mutable_channel.activated_channels
        assert active % groups == 0
        rows = unit.mutable_channel.current_mask.reshape(groups, -1)
        assert bool((rows == rows[:1]).all())
        allowed = [*range(math.lcm(groups, divisor), 96, math.lcm(groups, divisor)), 96]
        assert active in allowed
        if divisor == 1:  # rounding to a divisor may go up to lose less than min_ratio
            assert abs(active - choice) == min(abs(number - choice) for number in allowed)


@pytest.mark.parametrize(
    ("mode", "choice", "message"),
    [
        ("number", 0, r"choice 0 of unit 'unit_16' is out of range.*1 to 16"),
        ("number", 17, r"choice 17 of unit 'unit_16' is out of range.*1 to 16"),
        ("number", 0.5, r"choice 0.5 of unit 'unit_16' is fractional.*choice_mode='ratio'"),
        ("number", True, r"is no number"),
        ("number", "8", r"is no number"),
        ("number", float("nan"), r"is no number"),
        ("ratio", 0.0, r"choice 0.0 of unit 'unit_16' is out of range.*up to 1"),
        ("ratio", 8, r"choice 8 of unit 'unit_16' is out of range.*choice_mode='number'"),
        ("ratio", float("inf"), r"is no number"),
    ],
)
def test_bad_choices(mode: str, choice: object, message: str) -> None:
    unit = SequentialMutableChannelUnit(16, choice_mode=mode)
    with pytest.raises(ChoiceError, match=message):
        unit.current_choice = choice  # type: ignore[assignment]
    assert unit.mutable_channel.activated_channels == 16


def test_a_choice_outside_the_candidates() -> None:
    unit = OneShotMutableChannelUnit(16, [0.25, 0.5, 1.0])
    with pytest.raises(ChoiceError, match=r"0.75 of unit 'unit_16' is none of its candidates \[0.25, 0.5, 1.0\]"):
        unit.current_choice = 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_channels": 0}, "num_channels must be a positive integer, got 0"),
        ({"num_channels": 8, "choice_mode": "numbr"}, "did you mean 'number'"),
        ({"num_channels": 8, "divisor": 0}, "divisor must be a positive integer"),
        ({"num_channels": 8, "min_value": 1.5}, "min_value must be a positive integer"),
        ({"num_channels": 8, "min_ratio": 2}, "min_ratio must be between 0 and 1"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SequentialMutableChannelUnit(**arguments)  # type: ignore[arg-type]


def test_arbitrary_channels() -> None:
    unit = MutableChannelUnit(6)
    unit.keep([5, 0, 2])
    assert unit.mutable_channel.current_mask.tolist() == [True, False, True, False, False, True]
    assert unit.current_choice == 3
    unit.groups = 2
    with pytest.raises(ChoiceError, match="2 groups of unit 'unit_6' must keep the same channels"):
        unit.keep([0, 4])
    unit.keep([0, 3])
    assert unit.current_choice == 2


def test_init_args_in_the_documents_order() -> None:
    assert list(SequentialMutableChannelUnit(8).init_args()) == [
        "num_channels",
        "choice_mode",
        "divisor",
        "min_value",
        "min_ratio",
    ]
    assert list(OneShotMutableChannelUnit(8).init_args()) == [
        "num_channels",
        "divisor",
        "min_value",
        "min_ratio",
        "candidate_choices",
        "choice_mode",
    ]
