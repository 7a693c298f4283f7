"""Slimmable units: candidates that are rounded, sorted, kept apart, and known by their number."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import (
    BaseMutableChannel,
    ChoiceError,
    ConfigError,
    ForwardTracer,
    SlimmableChannelUnit,
    SlimmableMutableChannel,
)
from lightning_channels.dynamic_ops import SwitchableBatchNorm2d, is_dynamic
from lightning_channels.mutables import batch_update


@pytest.mark.parametrize(
    ("arguments", "candidates", "current"),
    [
        ({"num_channels": 48}, [48], 48),
        ({"num_channels": 48, "candidate_choices": []}, [48], 48),
        ({"num_channels": 48, "candidate_choices": [], "choice_mode": "ratio"}, [1.0], 1.0),
        ({"num_channels": 48, "candidate_choices": [40, 20, 30], "divisor": 8}, [24, 32, 40], 40),
        ({"num_channels": 48, "candidate_choices": [0.3, 0.5, 0.7], "divisor": 8, "choice_mode": "ratio"}, None, 2 / 3),
        ({"num_channels": 48, "candidate_choices": [8, 8, 16]}, [8, 8, 16], 16),
        ({"num_channels": 48, "candidate_choices": [17, 16], "divisor": 8}, [16, 16], 16),
        ({"num_channels": 10, "candidate_choices": [10], "divisor": 8}, [10], 10),
        ({"num_channels": 100, "candidate_choices": [1, 0.29], "choice_mode": "ratio"}, [0.29, 1.0], 1.0),
    ],
)
def test_candidates(arguments: dict, candidates: list | None, current: float) -> None:
    unit = SlimmableChannelUnit(**arguments)
    assert unit.candidate_choices == ([1 / 3, 1 / 2, 2 / 3] if candidates is None else candidates)
    assert unit.current_choice == current
    assert unit.current_candidate == len(unit.candidate_choices) - 1
    assert unit.max_choice == current
    again = SlimmableChannelUnit(**unit.init_args())
    assert again.init_args() == unit.init_args()


def test_init_args_have_the_order_of_the_documents() -> None:
    assert list(SlimmableChannelUnit(3).init_args().items()) == [
        ("num_channels", 3),
        ("divisor", 1),
        ("min_value", 1),
        ("min_ratio", 0.9),
        ("candidate_choices", [3]),
        ("choice_mode", "number"),
    ]


def test_a_choice_is_one_of_the_candidates() -> None:
    unit = SlimmableChannelUnit(16, [4, 8, 16])
    unit.current_choice = 8
    assert (unit.mutable_channel.activated_channels, unit.current_candidate) == (8, 1)
    with pytest.raises(ChoiceError, match=r"the choice 5 of unit .* is none of its candidates \[4, 8, 16\]"):
        unit.current_choice = 5
    assert unit.current_choice == 8
    drawn = {unit.sample_choice(random.Random(seed)) for seed in range(30)}
    assert drawn == {4, 8, 16}
    assert unit.min_choice == 4


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"candidate_choices": [4, 17]}, ChoiceError, "the choice 17 of unit .* is out of range"),
        ({"candidate_choices": [0.5]}, ChoiceError, "the choice 0.5 of unit .* is fractional"),
        ({"candidate_choices": [4, 8.0], "choice_mode": "ratio"}, ChoiceError, "the choice 4 of unit .* out of range"),
        ({"candidate_choices": "8"}, ConfigError, "candidate_choices must be a list of numbers, got '8'"),
        ({"candidate_choices": [None]}, ChoiceError, "None of unit .* is no number"),
        ({"choice_mode": "share"}, ConfigError, "choice_mode must be one of number, ratio, got 'share'"),
    ],
)
def test_bad_candidates(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SlimmableChannelUnit(16, **arguments)


def test_candidates_are_known_by_number_and_not_by_width() -> None:
    unit = SlimmableChannelUnit(16, [8, 8, 16])
    unit.current_candidate = 0
    assert (unit.current_choice, unit.current_candidate) == (8, 0)
    unit.current_choice = 8  # by the width alone it is the last of equals
    assert unit.current_candidate == 1
    for wrong in (3, -1, 1.0, True):
        with pytest.raises(ChoiceError, match=r"has no candidate .*; allowed are 0 to 2"):
            unit.current_candidate = wrong
    assert unit.current_candidate == 1


def test_channels_that_are_kept_by_hand_are_no_candidate() -> None:
    unit = SlimmableChannelUnit(16, [8, 16])
    unit.keep(range(8))
    assert (unit.current_choice, unit.current_candidate) == (8, None)


def test_a_failed_batch_leaves_the_candidate_too() -> None:
    mutable = SlimmableMutableChannel(8)
    mutable.take(0, 4)
    with pytest.raises(ChoiceError, match="cannot keep 9 channels"), batch_update():
        _several(mutable)
    assert (mutable.candidate, mutable.activated_channels) == (0, 4)
    snapshot = mutable.snapshot()
    mutable.keep(2)
    mutable.put_back(snapshot)
    assert (mutable.candidate, mutable.activated_channels) == (0, 4)
    assert BaseMutableChannel(8).candidate is None


def _several(mutable: SlimmableMutableChannel) -> None:
    mutable.take(1, 4)
    mutable.take(2, 6)
    mutable.keep([0, 5])
    mutable.take(3, 9)


class Joined(nn.Module):
    """One norm over the channels of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(10), nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.left(x), self.right(x)], 1)))


def joined_units(model: nn.Module, left: list[int], right: list[int]) -> list[SlimmableChannelUnit]:
    graph = ForwardTracer().trace(model, torch.randn(1, 3, 4, 4))
    groups = [group for group in graph.groups if group.num_channels in (4, 6)]
    candidates = {4: left, 6: right}
    return [
        SlimmableChannelUnit.init_from_group(group, {"candidate_choices": candidates[group.num_channels]})
        for group in groups
    ]


def test_a_norm_over_two_units_switches_when_both_agree() -> None:
    model = Joined()
    units = joined_units(model, [2, 4], [3, 6])
    for unit in units:
        unit.prepare_for_pruning(model)
    norm = model.norm
    assert isinstance(norm, SwitchableBatchNorm2d)
    with torch.no_grad():
        norm.candidates[0].weight.fill_(5)
    units[0].current_candidate = 0
    assert norm.weight.tolist() == [1] * 8  # at different candidates: the widest one's
    units[1].current_candidate = 0
    assert norm.weight.tolist() == [5] * 5
    model.train()(torch.randn(3, 3, 4, 4))
    changed = norm.candidates[0].running_mean != 0
    assert changed.tolist() == [True, True, False, False, True, True, True, False, False, False]
    assert not bool(norm._buffers["running_mean"].any())


def test_units_that_share_a_norm_need_equally_many_candidates() -> None:
    model = Joined()
    first, second = joined_units(model, [2, 4], [1, 3, 6])
    first.prepare_for_pruning(model)
    with pytest.raises(ConfigError, match=r"the norm 'norm' has channels of .* with 3 candidates and .* with 2; give"):
        second.prepare_for_pruning(model)
    assert not is_dynamic(model.right)
    assert isinstance(model.norm, SwitchableBatchNorm2d)  # the first unit's still
    first.detach(model)
    assert type(model.norm) is nn.BatchNorm2d
    assert "candidates" not in dict(model.norm.named_children())
