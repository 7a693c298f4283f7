"""Sides that are more than one unit's channels in order: after a flatten, after a concatenation, and after both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, DerivedMutableChannel, ModuleGraph, SequentialMutableChannelUnit, build


class Net(nn.Module):
    """Two branches are concatenated, normalised and mixed; both the mixture and the concatenation are flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(10)
        self.mix = nn.Conv2d(10, 5, 1)
        self.from_mix = nn.Linear(5 * 4, 7)
        self.from_both = nn.Linear(10 * 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        both = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        return self.from_mix(self.mix(both).flatten(1)) + self.from_both(both.flatten(1))


LEFT, RIGHT, MIX = "left_(0, 4)_4", "right_(0, 6)_6", "mix_(0, 5)_5"

PRINTED = f"""\
SequentialMutableChannelUnit(
  name={RIGHT}
  (output_related): ModuleList(
    (0): Channel(right, index=(0, 6), is_output_channel=true, expand_ratio=1)
    (1): Channel(norm, index=(4, 10), is_output_channel=true, expand_ratio=1)
  )
  (input_related): ModuleList(
    (0): Channel(norm, index=(4, 10), is_output_channel=false, expand_ratio=1)
    (1): Channel(mix, index=(4, 10), is_output_channel=false, expand_ratio=1)
    (2): Channel(from_both, index=(16, 40), is_output_channel=false, expand_ratio=4)
  )
  (mutable_channel): SquentialMutableChannel(num_channels=6, activated_channels=3)
)"""

MIXED = """\
DynamicConv2d(
  10, 5, kernel_size=(1, 1), stride=(1, 1)
  (mutable_attrs): ModuleDict(
    (in_channels): MutableChannelContainer(num_channels=10, activated_channels=5)
    (out_channels): MutableChannelContainer(num_channels=5, activated_channels=1)
  )
)
DynamicLinear(
  in_features=20, out_features=7, bias=True
  (mutable_attrs): ModuleDict(
    (in_features): MutableChannelContainer(num_channels=20, activated_channels=4)
    (out_features): MutableChannelContainer(num_channels=7, activated_channels=7)
  )
)
DynamicLinear(
  in_features=40, out_features=7, bias=True
  (mutable_attrs): ModuleDict(
    (in_features): MutableChannelContainer(num_channels=40, activated_channels=20)
    (out_features): MutableChannelContainer(num_channels=7, activated_channels=7)
  )
)"""


@pytest.fixture
def mutator() -> ChannelMutator:
    torch.manual_seed(0)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Net().double().eval(), torch.randn(2, 3, 2, 2, dtype=torch.float64))
    return mutator


def by_hand(model: nn.Module, x: Tensor, left: list[int], right: list[int], mix: list[int]) -> Tensor:
    """The narrow network, from the full tensors."""
    own = model.state_dict()
    both = left + [4 + channel for channel in right]
    functional = nn.functional
    branches = [
        functional.conv2d(x, own[f"{name}.weight"][kept], own[f"{name}.bias"][kept])
        for name, kept in (("left", left), ("right", right))
    ]
    normed = functional.batch_norm(
        torch.cat(branches, 1), *(own[f"norm.{n}"][both] for n in ("running_mean", "running_var", "weight", "bias"))
    )
    mixed = functional.conv2d(normed, own["mix.weight"][mix][:, both], own["mix.bias"][mix])

    def head(name: str, features: Tensor, kept: list[int]) -> Tensor:
        columns = own[f"{name}.weight"].unflatten(1, (-1, 4))[:, kept].flatten(1)
        return functional.linear(features.flatten(1), columns, own[f"{name}.bias"])

    return head("from_mix", mixed, mix) + head("from_both", normed, both)


def test_it_prints_right(mutator: ChannelMutator) -> None:
    assert list(mutator.current_choices) == [LEFT, RIGHT, MIX]
    mutator.set_choices({LEFT: 2, RIGHT: 3, MIX: 1})
    assert repr(mutator.name2unit[RIGHT]) == PRINTED
    model = mutator.model
    assert "\n".join(repr(module) for module in (model.mix, model.from_mix, model.from_both)) == MIXED
    tiles = model.from_both.mutable_attrs["in_features"].mutable_channels
    assert [(tile, repr(mutable)) for tile, mutable in tiles.items()] == [
        ((0, 16), "DerivedMutableChannel(num_channels=16, activated_channels=8)"),
        ((16, 40), "DerivedMutableChannel(num_channels=24, activated_channels=12)"),
    ]
    assert all(isinstance(mutable, DerivedMutableChannel) and mutable.expand_ratio == 4 for mutable in tiles.values())


@pytest.mark.parametrize(
    ("left", "right", "mix"),
    [([0, 1], [0, 1, 2], [0]), ([0, 1, 2, 3], [0], [0, 1]), ([1, 3], [0, 4, 5], [2, 4]), ([3], [5], [0, 1, 2, 3, 4])],
)
def test_it_slices_right(mutator: ChannelMutator, left: list[int], right: list[int], mix: list[int]) -> None:
    model, x = mutator.model, torch.randn(2, 3, 2, 2, dtype=torch.float64)
    for name, kept in ((LEFT, left), (RIGHT, right), (MIX, mix)):
        mutator.name2unit[name].keep(kept)
    expected = by_hand(model, x, left, right, mix)
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mutator.export()(x), expected, rtol=1e-12, atol=1e-12)
    both = len(left) + len(right)
    assert model.mix.weight.shape == (len(mix), both, 1, 1)
    assert (model.from_mix.in_features, model.from_both.in_features) == (4 * len(mix), 4 * both)


def test_it_comes_back_from_a_template(mutator: ChannelMutator) -> None:
    mutator.set_choices({LEFT: 2, RIGHT: 3, MIX: 1})
    template = mutator.config_template(with_unit_init_args=True, with_channels=True)
    again = build({**template, "parse_cfg": {"type": "Config"}})
    other = Net().double().eval()
    other.load_state_dict(mutator.model.state_dict())
    again.prepare_from_supernet(other)
    assert [repr(unit) for unit in again.units] == [repr(unit) for unit in mutator.units]
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(other(x), mutator.model(x))


def test_both_tracers_see_it_alike() -> None:
    model, x = Net().eval(), torch.randn(2, 3, 2, 2)
    graphs = ModuleGraph.init_from_forward_tracer(model, x), ModuleGraph.init_from_backward_tracer(model, x)
    forward, backward = (SequentialMutableChannelUnit.init_from_graph(graph) for graph in graphs)
    assert [repr(unit) for unit in forward] == [repr(unit) for unit in backward]
