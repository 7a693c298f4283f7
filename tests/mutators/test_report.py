"""The report: what can change, what can't, and why."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from zoo import Everything, Toy, images

from lightning_channels import ChannelMutator


class Partly(nn.Module):
    """One unit that can change, one that reaches an operator without a rule, and a parameter in no unit."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 2)
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cumsum(self.b(torch.relu(self.a(x))), 1)) * self.temperature


def test_the_figures() -> None:
    model = Partly()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(1, 4))
    report = mutator.report()
    by_name = {unit.name: unit for unit in report.units}
    total = 30 + 56 + 18 + 1
    free = by_name["a_(0, 6)_6"]
    assert (free.mutable, free.reason, free.num_channels, free.exact, free.groups) == (True, "", 6, True, 1)
    assert free.params == pytest.approx((30 + 48) / total)  # its own weight and bias, and the weight that reads it
    assert free.macs == pytest.approx((24 + 48) / (24 + 48 + 16))
    assert by_name["b_(0, 8)_8"].reason == "reaches an operator without a rule (cumsum in the model)"
    assert report.unassigned == ("temperature",)
    assert report.unruled == (("cumsum", ""),)
    assert report.covered == pytest.approx(78 / total)
    assert report.proven
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_the_table() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Toy(), images())
    lines = str(mutator.report()).splitlines()
    assert lines[0].startswith("2 of 4 units are mutable (proven); ")
    assert lines[2].split("  ")[0].strip() == "unit"
    assert lines[3].endswith("meets the model's input (convolution in net.conv0)")
    assert lines[4].startswith("net.conv0_(0, 8)_8")
    assert lines[6].endswith("reaches the model's output")


def test_what_was_not_proven_says_so() -> None:
    model = Everything()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(2, 3, 2, 4, 4), verify=False)
    assert "not proven" in str(mutator.report())
    rebuilt = ChannelMutator.from_structure(mutator.structure())
    rebuilt.prepare_from_supernet(Everything())
    assert not rebuilt.report().proven
    assert [unit.groups for unit in rebuilt.report().units] == [unit.groups for unit in mutator.report().units]
    assert {unit.groups for unit in rebuilt.report().units} == {1, 2, 3}
