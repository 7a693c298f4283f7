"""Units that keep the channels that score highest at the moment."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, ConfigError, L1MutableChannelUnit, RankedMutableChannelUnit
from tests.files import nets
from tests.files.nets import GROUPED

STEM = "stem_(0, 8)_8"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)).relu())


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def prepared(unit: str | dict[str, Any] = "L1MutableChannelUnit", model: nn.Module | None = None) -> ChannelMutator:
    mutator = ChannelMutator(unit)
    mutator.prepare_from_supernet(model or net(), torch.randn(1, 3, 6, 6))
    return mutator


def strengths(model: nn.Module, name: str) -> Tensor:
    """The L1 norm of each filter of a convolution, at full size."""
    weight: Any = model.get_submodule(name)._parameters["weight"]
    return weight.detach().abs().sum((1, 2, 3))


def test_a_choice_keeps_the_strongest_filters_of_the_moment() -> None:
    mutator = prepared()
    model: Any = mutator.model
    mutator.set_choices({STEM: 3})
    strongest = strengths(model, "stem").topk(3).indices.sort().values.tolist()
    assert mutator.kept_channels() == {STEM: strongest}
    gone = next(channel for channel in range(8) if channel not in strongest)
    with torch.no_grad():
        model.stem._parameters["weight"][gone] *= 100
    assert mutator.kept_channels() == {STEM: strongest}  # until a choice is set
    mutator.set_choices({STEM: 3})
    assert gone in mutator.kept_channels()[STEM]
    assert mutator.name2unit[STEM].order is None


def test_groups_keep_the_same_places() -> None:
    mutator = ChannelMutator("l1")
    mutator.prepare_from_supernet(nets.net(), nets.inputs())
    mutator.set_choices({GROUPED: 4})
    unit = mutator.name2unit[GROUPED]
    places = strengths(mutator.model, "grouped").reshape(unit.groups, -1).sum(0)
    first = places.topk(4 // unit.groups).indices.sort().values
    expected = [group * len(places) + int(place) for group in range(unit.groups) for place in first]
    assert unit.mutable_channel.kept.tolist() == expected


def test_own_scores_go_first() -> None:
    mutator = prepared()
    unit = mutator.name2unit[STEM]
    unit.rank(list(range(8)))
    unit.current_choice = 2
    assert unit.kept == [6, 7]
    unit.rank(None)
    unit.current_choice = 2
    assert unit.kept == strengths(mutator.model, "stem").topk(2).indices.sort().values.tolist()


def test_criteria_by_name() -> None:
    criterion = {"type": "l2", "tensors": ["inputs"]}
    mutator = prepared({"type": "ranked", "default_args": {"criterion": criterion, "divisor": 2}})
    mutator.set_choices({STEM: 3})
    unit = mutator.name2unit[STEM]
    assert isinstance(unit, RankedMutableChannelUnit)
    assert unit.current_choice == 4
    assert unit.init_args() == {
        "num_channels": 8,
        "criterion": criterion,
        "choice_mode": "number",
        "divisor": 2,
        "min_value": 1,
        "min_ratio": 0.9,
    }
    assert "criterion" not in L1MutableChannelUnit(8).init_args()


def test_a_copy_ranks_by_its_own_weights() -> None:
    mutator = prepared()
    other = copy.deepcopy(mutator)
    with torch.no_grad():
        other.model.stem._parameters["weight"].copy_(mutator.model.stem._parameters["weight"].flip(0))
    for one in (mutator, other):
        one.set_choices({STEM: 3})
    assert other.kept_channels()[STEM] == sorted(7 - channel for channel in mutator.kept_channels()[STEM])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"criterion": "l3"}, "unknown criterion type 'l3'; did you mean 'l2'.* l1,"),
        ({"criterion": {"type": "l1", "tensor": ["inputs"]}}, "takes no argument 'tensor'; did you mean 'tensors'"),
        ({"criterion": "taylor"}, "'taylor' collects gradients before it can score.*such as 'l1'"),
        ({"criterion": len}, r"a dict with 'type', got <built-in.*call unit.rank\(scores\)"),
        ({"criterion": "l1", "divisor": 0}, "divisor must be a positive integer"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankedMutableChannelUnit(8, **arguments)


def test_nothing_to_score_shows_before_anything_is_changed() -> None:
    model = net()
    model.norm = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"can't score unit .*, which has no norms"):
        prepared({"type": "ranked", "default_args": {"criterion": {"type": "l1", "tensors": ["norms"]}}}, model)
    assert type(model.stem) is nn.Conv2d
