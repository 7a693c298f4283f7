"""Models that compute something once in eval mode, and keep it until they are trained again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_channels import ChannelMutator, SlimmableChannelMutator, export_subnet

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Scaled(nn.Module):
    """Keeps the softmax of its scales in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scales, self.second = nn.Linear(4, 8), nn.Parameter(torch.arange(8.0)), nn.Linear(8, 2)
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Scaled:
        super().train(mode)
        if mode:
            self.kept.clear()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self.second(self.first(x) * self.scales.sigmoid())
        if "scales" not in self.kept:
            self.kept["scales"] = self.scales.sigmoid().detach()
        return self.second(self.first(x) * self.kept["scales"])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(4), Scaled()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.norm(x))


def prepared() -> tuple[Net, ChannelMutator]:
    torch.manual_seed(0)
    model = Net().double().eval()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, X)
    return model, mutator


def test_they_are_forgotten_wherever_a_width_is_set() -> None:
    model, mutator = prepared()
    (unit,) = mutator.mutable_units
    assert model(X).shape == (2, 2)
    for change in (
        lambda: mutator.set_choices({unit.name: 3}),
        lambda: setattr(unit, "current_choice", 5),
        lambda: unit.keep([1, 6]),
        lambda: mutator.set_choices(mutator.sample_choices("max")),
    ):
        change()
        assert_close(model(X), export_subnet(model)(X))
    unit.mutable_channel.keep(4)
    mutator.widths_changed()
    assert model(X).shape == (2, 2)


def test_an_exported_model_does_not_have_them() -> None:
    model, mutator = prepared()
    expected = model(X)
    assert model.inner.kept
    exported: Any = export_subnet(model)
    assert not exported.inner.kept
    exported = export_subnet(model, {mutator.mutable_units[0].name: 2})
    assert exported(X).shape == (2, 2)
    assert_close(model(X), expected)


def test_modes_are_left_alone() -> None:
    model, mutator = prepared()
    model.inner.first.train()
    mutator.set_choices({mutator.mutable_units[0].name: 3})
    assert [m.training for m in model.modules()] == [False, False, False, True, False]
    model.train()
    mutator.set_choices({mutator.mutable_units[0].name: 4})
    assert all(m.training for m in model.modules())


def test_a_restored_model_is_wide_again() -> None:
    model, mutator = prepared()
    expected = model(X)
    mutator.set_choices({mutator.mutable_units[0].name: 3})
    model(X)
    mutator.restore()
    assert_close(model(X), expected)


def test_subnets_have_their_own() -> None:
    torch.manual_seed(0)
    model = Net().double().eval()
    mutator = SlimmableChannelMutator({"default_args": {"candidate_choices": [2, 8]}})
    mutator.prepare_from_supernet(model, X)
    for subnet in (1, 0, 1):
        mutator.set_subnet(subnet)
        assert_close(model(X), export_subnet(model)(X))
