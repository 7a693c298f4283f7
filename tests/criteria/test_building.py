"""Criteria from what users write."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_channels import CRITERIA, ConfigError, WeightCriterion, build_criterion
from lightning_channels.criteria import FisherCriterion, L1Criterion, TaylorCriterion, scores_of
from tests.criteria.nets import FIRST, batch, chain, prepared

NAMES = ["bn_scale", "fisher", "fpgm", "l1", "l2", "lamp", "random", "taylor"]


@pytest.fixture
def unit() -> Any:
    return prepared(chain(), batch())[1][FIRST]


@pytest.fixture
def registry() -> Iterator[None]:
    known = dict(CRITERIA._classes)
    yield
    CRITERIA._classes = known


def test_names_dicts_classes_and_instances() -> None:
    assert set(CRITERIA.names()) >= {*NAMES}
    for name in NAMES:
        assert type(build_criterion(name)) is CRITERIA.get(name)
    assert isinstance(build_criterion(L1Criterion), L1Criterion)
    own = TaylorCriterion(joint=True)
    assert build_criterion(own) is own
    given = {"type": "l2", "reduction": "max", "normalizer": None, "tensors": ["inputs"]}
    built: Any = build_criterion(given)
    assert (built.reduction, built.normalizer, built.tensors) == ("max", None, ("inputs",))
    assert repr(built) == "L2Criterion(reduction='max', normalizer=None, tensors=('inputs',))"
    assert given["type"] == "l2"


def test_a_function(unit: Any) -> None:
    def by_place(unit: Any) -> Tensor:
        return torch.arange(unit.num_channels)

    assert build_criterion(by_place) is by_place
    scores = scores_of(by_place, unit)
    assert (scores.tolist(), scores.dtype) == ([0.0, 1.0, 2.0], torch.float64)


def test_a_class_of_ones_own_by_name(registry: None, unit: Any) -> None:
    @CRITERIA.register("largest_entry")
    class Largest(WeightCriterion):
        def score(self, tensor: Any) -> Tensor:
            return tensor.rows().abs().amax(1)

    criterion = build_criterion({"type": "largest_entry", "tensors": ["outputs"], "normalizer": None})
    expected = unit.model[0]._parameters["weight"].abs().amax((1, 2, 3))
    assert torch.equal(scores_of(criterion, unit), expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("l3", r"unknown criterion 'l3'; did you mean 'l[12]'\? Known: bn_scale, fisher"),
        ({"type": "l1", "norm": "mean"}, "criterion l1 takes no argument 'norm'"),
        ({"reduction": "sum"}, "a criterion config must be a dict with a 'type'"),
        ({"type": "l1", "reduction": "median"}, "L1Criterion: reduction is 'median'; did you mean 'mean'"),
        ({"type": "l1", "normalizer": "Mean"}, "L1Criterion: normalizer is 'Mean'; did you mean 'mean'"),
        ({"type": "l1", "tensors": "inputs"}, "tensors must be a list of outputs, inputs, norms, biases, got 'inputs'"),
        ({"type": "l1", "tensors": []}, "tensors must be a list"),
        ({"type": "l1", "tensors": ["input"]}, "one of tensors is 'input'; did you mean 'inputs'"),
        ({"type": "random", "seed": 0.5}, "seed must be an integer, got 0.5"),
        ({"type": "taylor", "joint": 1}, "joint must be true or false, got 1"),
        ({"type": "fisher", "reduction": "sum"}, "criterion fisher takes no argument 'reduction'"),
        (3, "a criterion must be a name, a dict with 'type', or a callable from a unit .* got int"),
        (None, "got NoneType"),
    ],
)
def test_mistakes_are_named(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_criterion(given)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda unit: [1.0, 2.0, 3.0], "one score for each of the 3 channels of unit .* got list"),
        (lambda unit: torch.ones(4), r"got one of shape \(4,\)"),
        (lambda unit: torch.ones(3, 1), r"got one of shape \(3, 1\)"),
        (lambda unit: torch.tensor([1.0, torch.nan, 2.0]), "no finite numbers"),
    ],
)
def test_what_a_function_returns_is_checked(unit: Any, wrong: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scores_of(wrong, unit)


@pytest.mark.parametrize("criterion", [FisherCriterion(), TaylorCriterion()])
def test_what_has_collected_nothing_says_so(unit: Any, criterion: Any) -> None:
    assert not criterion.ready
    with pytest.raises(ConfigError, match=r"has collected nothing for unit '0_\(0, 3\)_3'; call start"):
        criterion(unit)
