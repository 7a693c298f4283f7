"""The space of a search: what units may be, limits, and what is drawn within them."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import VisionTransformer

from lightning_channels import (
    ChannelMutator,
    ChoiceError,
    ConfigError,
    PrepareError,
    SearchSpace,
    SlimmableChannelMutator,
)
from tests.pruning.nets import grouped
from tests.pruning.nets import prepared as prepared_net
from tests.search.nets import chain, every, prepared, space_of

A, B, C = "0_(0, 16)_16", "2_(0, 16)_16", "4_(0, 16)_16"


def test_auto_is_the_divisor_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    space = SearchSpace(prepared([16]), divisor="auto")
    assert (space.divisor, list(space.candidates.values())) == (8, [[8, 16]])


def test_of_heads_as_many_stay_as_make_a_multiple() -> None:
    mutator = ChannelMutator()
    net = VisionTransformer(16, 8, num_layers=1, num_heads=4, hidden_dim=16, mlp_dim=32, num_classes=3)
    mutator.prepare_from_supernet(net, torch.randn(1, 3, 16, 16))
    space = SearchSpace(mutator, divisor=8)
    assert [numbers for numbers in space.candidates.values() if numbers[-1] == 4] == [[2, 4]]  # each has 4 dims


def test_candidates_are_what_units_groups_and_divisor_allow() -> None:
    space = SearchSpace(prepared_net(grouped), divisor=4)
    assert space.candidates == {"0_(0, 8)_8": [4, 8], "3_(0, 12)_12": [12], "6_(0, 10)_10": [4, 8, 10]}
    assert (space.last, space.size) == ((1, 2), 6)
    assert SearchSpace(prepared_net(grouped)).candidates["3_(0, 12)_12"] == [3, 6, 9, 12]


def test_listed_candidates_are_taken_as_they_are() -> None:
    unit = {"type": "OneShotMutableChannelUnit", "default_args": {"candidate_choices": [0.25, 0.5, 0.75]}}
    space = SearchSpace(prepared(unit=unit), divisor=8)
    assert space.candidates[A] == [8, 12]
    assert space.choices((1, 1, 0)) == {A: 0.75, B: 0.75, C: 0.5}


def test_a_choice_is_complete_whatever_the_model_stands_at() -> None:
    space = SearchSpace(prepared_net(grouped), divisor=4)
    assert space.choices((0, 1)) == {"0_(0, 8)_8": 4, "3_(0, 12)_12": 12, "6_(0, 10)_10": 8}
    assert space.point({"0_(0, 8)_8": 4, "6_(0, 10)_10": 8}) == (0, 1)


def test_points_and_choices_are_the_same() -> None:
    space = space_of(widths=(4, 3, 2))
    points = list(itertools.product(range(4), range(3), range(2)))
    assert [space.point(space.choices(point)) for point in points] == points
    counted = [space.resources.count(space.choices(point)) for point in points]
    assert [{name: round(value) for name, value in space.measure(point).items()} for point in points] == counted


def test_subnets_that_were_trained_are_the_choices() -> None:
    unit = {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [4, 12, 16]}}
    mutator = SlimmableChannelMutator(unit)
    mutator.prepare_from_supernet(chain(), torch.ones(1, 4))
    space = SearchSpace(mutator, limits={"params": 0.7})
    assert [space.choices((at,)) for at in range(3)] == mutator.subnets
    assert every(space)[-1] not in mutator.subnets  # one by one the units would have more
    assert space.within([(0,), (1,), (2,)]).tolist() == [True, True, False]
    with pytest.raises(ChoiceError, match="the units change together here, and no subnet has the widths"):
        space.point({A: 4, B: 12, C: 4})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({A: 4, B: 4}, "the choices name no width for unit '4_"),
        ({A: 4, B: 4, C: 5}, "the choice 5 of unit '4_(0, 16)_16' is none of its candidates here: 4, 8, 12, 16"),
        ({A: 4, B: 4, C: 17}, "out of range"),
        ({A: 4, B: 4, "5": 4}, "unknown unit '5'"),
        ({A: [0, 1, 2, 3], B: 4, C: 4}, "a search chooses how many channels are kept"),
    ],
)
def test_choices_of_no_point(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ChoiceError) as caught:
        space_of(divisor=4).point(choices)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limits": {"flops": 0.001}}, "limits: the target of 1.216 flops can't be reached: with every unit at its"),
        ({"limits": {"flops": 0.5, "params": "10"}}, "limits: the target of 10 params can't be reached"),
        ({"limits": {"flop": 0.5}}, "limits: the target names an unknown resource 'flop'; did you mean 'flops'"),
        ({"limits": {"latency_ms": "1ms"}}, "limits: the target names latency_ms, and nothing knows"),
        ({"limits": {"flops": 2.0, "params": 2}}, "limits: the target of 2 flops can't be reached"),
        ({"limits": 0.5}, "limits: a target must be a dict"),
        ({"divisor": 0}, "divisor must be a positive integer, 'auto' or 'auto:onnxruntime', got 0"),
        ({"divisor": True}, "divisor must be a positive integer, 'auto' or 'auto:onnxruntime', got True"),
        ({"divisor": 32}, "no unit has more than one width; take a smaller divisor"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchSpace(prepared(), **arguments)
    assert message in str(caught.value)


def test_a_model_without_choices_is_refused() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(nn.Sequential(nn.Linear(2, 3)), torch.ones(1, 2))
    with pytest.raises(ConfigError, match=r"there is nothing to search.*mutator\.report\(\) says why"):
        SearchSpace(mutator)
    with pytest.raises(PrepareError, match="no model is prepared"):
        SearchSpace(ChannelMutator())


def test_the_hash_tells_spaces_apart_and_not_the_widths_of_the_moment() -> None:
    mutator = prepared()
    first = SearchSpace(mutator, limits={"flops": 0.5})
    mutator.set_choices({A: 3})
    same = [SearchSpace(mutator, limits={"flops": 0.5}), space_of({"flops": 0.5})]
    others = [
        space_of({"flops": 0.6}),
        space_of(),
        space_of({"flops": 0.5}, divisor=2),
        space_of({"flops": 0.5}, (16, 8, 16)),
    ]
    assert {space.hash for space in same} == {first.hash}
    assert len({space.hash for space in [first, *others]}) == 5


LIMITS = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from([0.2, 0.35, 0.5, 0.8, 1.0]) for name in ("flops", "params", "activations")}
)
WIDTHS = st.lists(st.integers(2, 24), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(WIDTHS, LIMITS, st.integers(1, 4), st.integers(0, 5))
def test_what_is_drawn_is_within_the_limits(
    widths: list[int], limits: dict[str, float], divisor: int, seed: int
) -> None:
    try:
        space = space_of(limits or None, widths, divisor)
    except ConfigError:
        reject()  # such a net can't come below such limits, or has no choice
    rng, seen = random.Random(seed), set()
    for _ in range(8):
        point = space.unseen(rng, seen)
        if point is None:
            assert space.size > 4096 or len(seen) == len(every(space))
            break
        assert space.allows(space.choices(point))
        assert point not in seen
        seen.add(point)


@settings(max_examples=40, deadline=None)
@given(WIDTHS, LIMITS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_narrowing_goes_no_further_than_it_must(
    widths: list[int], limits: dict[str, float], seed: int, rng: random.Random
) -> None:
    try:
        space = space_of(limits or None, widths)
    except ConfigError:
        reject()  # such a net can't come below such limits, or has no choice
    point = tuple(rng.randint(0, last) for last in space.last)
    found = space.narrowed(point, random.Random(seed))
    assert space.allows(space.choices(found))
    assert all(now <= before for now, before in zip(found, point, strict=True))
    if bool(space.within([point])[0]):
        assert found == point
    for at, (now, before) in enumerate(zip(found, point, strict=True)):
        if now < before:
            assert not space.allows(space.choices([*found[:at], now + 1, *found[at + 1 :]]))


def test_nets_of_all_sizes_are_drawn() -> None:
    space, rng = space_of(widths=(16,) * 8), random.Random(0)
    shares = [sum(space.sample(rng)) / sum(space.last) for _ in range(400)]
    assert min(shares) < 0.4
    assert max(shares) > 0.6
