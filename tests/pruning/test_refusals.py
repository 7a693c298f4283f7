"""What a pruner refuses, and in which words."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from lightning_channels import ChannelMutator, ConfigError, PrepareError, Pruner
from lightning_channels.resources import Resources
from tests.pruning.nets import Gradients, drawn, grouped, numbers, prepared


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": None}, "a target is needed"),
        ({"scope": "layer"}, "scope must be 'global', 'unit' or a dict of pattern"),
        ({"scope": {}}, "the scope by pattern must name at least one pattern"),
        (
            {"scope": {"0*": 1.5}},
            r"the scope must be a number of channels \(1, 2, …\) or a part of them .*got 1.5 for '0\*'",
        ),
        ({"floor": 0}, "the floor must be a number of channels .*got 0"),
        ({"floor": {"0*": True}}, "the floor must be a number of channels .*got True"),
        ({"ignore": 3}, "ignore must be a list of patterns of units' names, got 3"),
        ({"regrow": "yes"}, "regrow must be true or false, got 'yes'"),
        ({"criterion": 3}, "a criterion must be a name"),
        ({"criterion": drawn(), "normalizer": "max"}, "normalizer belongs to a criterion given by name"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Pruner(**{"criterion": "l1", "target": {"flops": 0.5}, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ignore": ["layer1.*"]}, r"the ignored pattern 'layer1.\*' matches no unit"),
        ({"floor": {"9*": 3}}, r"the floor's pattern '9\*' matches no unit"),
        ({"scope": {"9*": 0.5}}, r"the scope's pattern '9\*' matches no unit"),
        ({"target": {"flop": 0.5}}, "unknown resource 'flop'; did you mean 'flops'"),
        ({"target": {"latency_ms": "3ms"}}, "measure a LatencyModel"),
        ({"start_step": 40}, "the pruning starts at step 40, and the training has 40 steps"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_at_the_start(arguments: Any, message: str) -> None:
    mutator = prepared(grouped)
    criterion = Gradients()
    pruner = Pruner(**{"criterion": criterion, "target": {"flops": 0.5}, **arguments})
    with pytest.raises(ConfigError, match=message):
        pruner.start(mutator, 40)
    assert not pruner.started
    assert criterion.calls == []
    with pytest.raises(PrepareError, match="call start"):
        pruner.before_step(0)


@pytest.mark.parametrize(
    ("arguments", "least", "message"),
    [
        ({}, [1, 3, 1], "The rest is in channels that no unit can drop"),
        ({"ignore": ["3*"]}, [1, 12, 1], r"Most is held by '3_\(0, 12\)_12' at 12 of 12 \(ignored\)"),
        ({"floor": {"6*": 0.5}}, [1, 3, 5], r"held by '6_\(0, 10\)_10' at 5 of 10 \(its floor\)"),
        ({"scope": {"0*": 0.5}}, [4, 3, 1], r"held by '0_\(0, 8\)_8' at 4 of 8 \(given by the scope\)"),
    ],
)
def test_an_impossible_target_is_refused_with_the_reachable_minimum(
    arguments: Any, least: list[int], message: str
) -> None:
    mutator = prepared(grouped)
    left = int(Resources(mutator).measure(torch.tensor(least))["params"])
    pruner = Pruner("l1", {"params": left - 1}, **arguments)
    with pytest.raises(ConfigError, match=message) as caught:
        pruner.start(mutator, 40)
    total = Resources(mutator).totals["params"]
    assert f"are left ({left / total:.1%})" in str(caught.value)
    (advised,) = re.findall(r"ask for (\S+) or more", str(caught.value))
    Pruner("l1", {"params": advised}, **arguments).start(mutator, 40)


def test_a_divisor_that_keeps_a_target_out_of_reach_is_named() -> None:
    mutator = prepared(grouped, {"type": "sequential", "default_args": {"divisor": 6}})
    with pytest.raises(ConfigError, match=r"the fewest that its type and divisor allow\)"):
        Pruner("l1", {"flops": 0.1}).start(mutator, 40)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda unit: torch.ones(3), "must return a tensor of one score for each of the 6 channels"),
        (lambda unit: torch.full((unit.num_channels,), float("nan")), "no finite numbers"),
        (lambda unit: None, "must return a tensor"),
    ],
)
def test_scores_that_are_none_change_nothing(scores: Any, message: str) -> None:
    mutator = prepared()
    pruner = Pruner(scores, {"flops": 0.5})
    pruner.start(mutator, 40)
    with pytest.raises(ConfigError, match=message):
        pruner.before_step(0)
    assert numbers(mutator) == [6, 5]
    assert not pruner.finished


def test_a_model_without_units_is_refused() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(torch.nn.Linear(4, 2), torch.ones(1, 4))
    with pytest.raises(ConfigError, match="the model has no unit that can change"):
        Pruner("l1", {"params": 0.5}).start(mutator, 40)


def test_the_step_is_checked() -> None:
    pruner = Pruner("l1", {"flops": 0.5})
    pruner.start(prepared(), 40)
    with pytest.raises(ConfigError, match="step must be the number of optimizer steps"):
        pruner.before_step(-1)
