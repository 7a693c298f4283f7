"""A small net, its widths, and a step of an optimizer that leaves inactive slices alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator
from lightning_channels.inactive import InactiveSlices

Kept = tuple[list[int], list[int]]

WIDTHS: list[Kept] = [
    ([0, 1, 2], [0, 1]),
    ([0, 1, 2, 3, 4], [0]),
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3]),
    ([1, 3, 5], [0, 3]),
    ([4], [2, 3]),
    ([0, 1, 2, 3], [0, 1, 2]),
]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def prepared(model: nn.Module, *shape: int) -> ChannelMutator:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(*(shape or (2, 5)), dtype=torch.double))
    return mutator


def keep(mutator: ChannelMutator, kept: Kept) -> None:
    for unit, channels in zip(mutator.mutable_units, kept, strict=True):
        unit.keep(channels)


def batch(step: int) -> Tensor:
    return torch.randn(7, 5, dtype=torch.double, generator=torch.Generator().manual_seed(step))


def parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def step(model: nn.Module, slices: InactiveSlices, optimizer: torch.optim.Optimizer, *inputs: Tensor) -> None:
    optimizer.zero_grad()
    slices.note()
    model(*inputs).square().sum().backward()
    slices.hold(optimizer)
    optimizer.step()
    slices.put_back(optimizer)
