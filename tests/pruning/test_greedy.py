"""Greedy pruning against a simulation by hand, one channel after the other."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from lightning_channels import ConfigError, Pruner, Resources, parse_target
from lightning_channels.pruning.bounds import bounds_of
from tests.pruning.nets import FIRST, SECOND, chain, drawn, grouped, numbers, prepared, pruned, rated

SCORES = {FIRST: [6.0, 1.0, 5.0, 2.0, 4.0, 3.0], SECOND: [5.0, 1.0, 2.0, 4.0, 3.0]}


def flops(a: int, b: int) -> int:
    return 2 * (4 * a + a * b + 2 * b)


def params(a: int, b: int) -> int:
    return 5 * a + a * b + b + 2 * b + 2


def nearest_after(before: list[int], limit: float) -> int:
    """The most flops within the limit that a choice within ``before`` has."""
    return max(cost for a in range(1, before[0] + 1) for b in range(1, before[1] + 1) if (cost := flops(a, b)) <= limit)


def by_hand(cost: Any, limit: float) -> list[list[int]]:
    """The lowest score a saved unit of cost goes; a and b are the channels left of both."""
    a, b = sorted(SCORES[FIRST]), sorted(SCORES[SECOND])
    found = []
    while flops(len(a), len(b)) > limit:
        now = cost(len(a), len(b))
        first = a[0] / (now - cost(len(a) - 1, len(b))) if len(a) > 1 else float("inf")
        second = b[0] / (now - cost(len(a), len(b) - 1)) if len(b) > 1 else float("inf")
        (a if first <= second else b).pop(0)
        found.append([len(a), len(b)])
    return found


@pytest.mark.parametrize(
    ("per", "cost"),
    [
        ("flops", flops),
        ("params", params),
        ("activations", lambda a, b: 4 * (2 * a + 2 * b + 2)),  # linear and relu, float32
    ],
)
def test_one_channel_goes_at_a_time(per: str, cost: Any) -> None:
    mutator = prepared()
    pruner = Pruner(rated(SCORES), {"flops": 0.3}, {"type": "greedy", "per": per, "interval": 3})
    events = pruned(pruner, mutator)
    expected = by_hand(cost, 0.3 * flops(6, 5))
    assert [list(event.after.values()) for event in events[:-1]] == expected[:-1]
    assert [event.step for event in events] == [3 * (k + 1) for k in range(len(expected))]
    assert [event.finished for event in events] == [False] * (len(events) - 1) + [True]
    # the last step would go further below the target than is needed
    limit = 0.3 * flops(6, 5)
    assert pruner.reached["flops"] == flops(*numbers(mutator)) == nearest_after(expected[-2], limit)


def test_scores_alone() -> None:
    mutator = prepared()
    events = pruned(Pruner(rated(SCORES), {"flops": 0.5}, {"type": "greedy", "per": None}), mutator)
    by_rank = [[5, 5], [5, 4], [4, 4], [4, 3], [3, 3]]  # 1, 1, 2, 2, 3
    assert [list(event.after.values()) for event in events[:-1]] == by_rank[:-1]
    assert events[-1].reached["flops"] == nearest_after(by_rank[-2], 0.5 * flops(6, 5)) > flops(*by_rank[-1])
    assert mutator.kept_channels()[FIRST] == [0, 2, 4, 5]


def test_several_channels_at_a_time_are_taken_one_by_one() -> None:
    one, two = prepared(), prepared()
    singles = pruned(Pruner(rated(SCORES), {"flops": 0.3}, "greedy"), one)
    pairs = pruned(Pruner(rated(SCORES), {"flops": 0.3}, {"type": "greedy", "channels": 2}), two)
    assert [list(event.after.values()) for event in pairs[:-1]] == [
        list(event.after.values()) for event in singles[1:-1:2]
    ][: len(pairs) - 1]
    assert numbers(one) == numbers(two)


def test_the_rest_goes_at_the_end_step() -> None:
    mutator = prepared()
    events = pruned(Pruner(rated(SCORES), {"flops": 0.3}, "greedy", interval=10, end_step=25), mutator)
    assert [event.step for event in events] == [10, 20, 25]
    assert events[-1].finished
    limit = 0.3 * flops(6, 5)
    assert events[-1].reached["flops"] == nearest_after(by_hand(flops, limit)[-2], limit)


def test_groups_lose_a_channel_each() -> None:
    mutator = prepared(grouped)
    pruner = Pruner(drawn(), {"flops": 0.4}, "greedy")
    for event in pruned(pruner, mutator):
        changed = {name: event.before[name] - event.after[name] for name in event.changed}
        if not event.finished:
            assert changed in ({"0_(0, 8)_8": 1}, {"3_(0, 12)_12": 3}, {"6_(0, 10)_10": 1})
    assert pruner.finished


def test_without_an_end_it_goes_on_until_the_target() -> None:
    mutator = prepared()
    pruner = Pruner(rated(SCORES), {"flops": 0.3}, "greedy", interval=10)
    pruner.start(mutator, None)
    assert [pruner.before_step(step) for step in range(15)].count(None) == 14
    assert not pruner.finished
    steps = [step for step in range(15, 500) if pruner.before_step(step)]
    assert pruner.finished
    assert steps == list(range(20, steps[-1] + 1, 10))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scope": "unit"}, "compares the channels of all units; leave scope at 'global'"),
        ({"scope": {"0*": 0.5}}, "leave scope at 'global'"),
    ],
)
def test_other_scopes_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pruner("l1", {"flops": 0.5}, "greedy", **arguments)


def test_what_is_not_counted_divides_nothing() -> None:
    pruner = Pruner("l1", {"flops": 0.5}, {"type": "greedy", "per": "flop"})
    with pytest.raises(ConfigError, match="divides by an unknown resource 'flop'; did you mean 'flops'"):
        pruner.start(prepared(chain), 10)


def test_weights_are_left_alone() -> None:
    mutator = prepared()
    before = {name: value.clone() for name, value in mutator.model.state_dict().items()}
    pruned(Pruner("l1", {"flops": 0.5}, "greedy"), mutator)
    assert all(torch.equal(value, before[name]) for name, value in mutator.model.state_dict().items())


def test_what_no_choice_of_channels_can_reach_is_refused() -> None:
    mutator = prepared()
    widths = itertools.product(range(1, 7), range(1, 6))
    fewest = min(6 - a + 5 - b for a, b in widths if flops(a, b) <= 0.3 * flops(6, 5))
    pruner = Pruner(rated(SCORES), {"flops": 0.3}, "greedy", interval=10)
    with pytest.raises(ConfigError, match=r"can't reach the target of .* flops in 21 steps: .* 2 times .*Train longer"):
        pruner.start(mutator, 21)
    assert not pruner.started
    assert mutator.kept_channels() == {}
    for enough in (10 * fewest + 1, -1, None):
        Pruner(rated(SCORES), {"flops": 0.3}, "greedy", interval=10).start(mutator, enough)
    Pruner(rated(SCORES), {"flops": 0.3}, {"type": "greedy", "channels": fewest}, interval=10).start(mutator, 11)
    Pruner(rated(SCORES), {"flops": 0.3}, "greedy", interval=10, end_step=20).start(mutator, 21)


@pytest.mark.parametrize("target", [{"flops": 0.3}, {"params": 0.5}, {"flops": 0.6, "activations": 0.6}])
@pytest.mark.parametrize("build", [grouped, chain])
def test_what_can_be_reached_is_never_refused(build: Any, target: dict[str, float]) -> None:
    """Not even with the best of all choices, which no criterion needs to find."""
    mutator = prepared(build)
    resources = Resources(mutator)
    steps = [bound.allowed.tolist() for bound in bounds_of(mutator.mutable_units, {}, [], {})]
    taken = min(
        sum(len(allowed) - 1 - allowed.index(number) for allowed, number in zip(steps, numbers, strict=True))
        for numbers in itertools.product(*steps)
        if parse_target(target).met(resources.measure(torch.tensor(numbers)), resources.totals)
    )
    Pruner("l1", target, "greedy").start(mutator, taken + 1)
    with pytest.raises(ConfigError, match="can't reach"):
        Pruner("l1", target, "greedy").start(mutator, 2)
