"""Tiny nets, criteria and runs that the tests of pruning share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, Pruner

FIRST, SECOND = "0_(0, 6)_6", "2_(0, 5)_5"


def chain() -> nn.Sequential:
    """Of a and b hidden channels: 5a + ab + b + 2b + 2 parameters, 4a + ab + 2b macs."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def grouped() -> nn.Sequential:
    """Units of 8, 12 (three groups) and 10 channels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.GroupNorm(3, 12),
        nn.ReLU(),
        nn.Conv2d(12, 10, 1),
        nn.Flatten(),
        nn.Linear(160, 3),
    )


INPUTS = {chain: torch.ones(1, 4), grouped: torch.ones(1, 2, 4, 4)}


def prepared(build: Any = chain, unit: Any = "SequentialMutableChannelUnit") -> ChannelMutator:
    mutator = ChannelMutator(unit)
    mutator.prepare_from_supernet(build(), INPUTS[build])
    return mutator


def rated(scores: Mapping[str, list[float]]) -> Any:
    """A criterion that says what it is told."""
    return lambda unit: torch.tensor(scores[unit.name], dtype=torch.float64)


def drawn(seed: int = 0) -> Any:
    """A criterion whose scores differ from channel to channel, as a function of seed and unit."""

    def score(unit: Any) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1000 + unit.num_channels)
        return torch.rand(unit.num_channels, generator=generator, dtype=torch.float64)

    return score


class Gradients:
    """A criterion that needs a backward pass: |weight * gradient| of the linear layer that gives the channels."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.sums: dict[str, Tensor] = {}

    @property
    def ready(self) -> bool:
        return bool(self.sums)

    def start(self, model: nn.Module, units: list[Any]) -> None:
        self.calls.append("start")
        self.model, self.units = model, units

    def after_backward(self) -> None:
        for unit in self.units:
            weight = self.model.get_submodule(unit.output_related[0].name)._parameters["weight"]
            found = (weight.grad * weight).detach().abs().sum(1).double()
            self.sums[unit.name] = self.sums.get(unit.name, 0) + found

    def reset(self) -> None:
        self.sums = {}

    def stop(self) -> None:
        self.calls.append("stop")

    def state_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums = dict(state["sums"])

    def __call__(self, unit: Any) -> Tensor:
        return self.sums[unit.name]


def numbers(mutator: ChannelMutator) -> list[int]:
    return [unit.mutable_channel.activated_channels for unit in mutator.mutable_units]


def pruned(pruner: Pruner, mutator: ChannelMutator, steps: int = 40) -> list[Any]:
    """The events of a run without training."""
    pruner.start(mutator, steps)
    return [event for step in range(steps) if (event := pruner.before_step(step)) is not None]


def train_step(mutator: ChannelMutator, optimizer: torch.optim.Optimizer, step: int) -> None:
    """A step on a batch that is a function of its number."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 4, generator=generator)
    optimizer.zero_grad()
    loss = (mutator.model(inputs) - inputs[:, :2] * inputs[:, 2:]).square().mean()
    loss.backward()
