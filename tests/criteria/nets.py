"""Nets of the criteria's tests, small enough to say by hand what belongs to a channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, MutableChannelUnit

FIRST, SECOND = "0_(0, 3)_3", "3_(0, 4)_4"


def chain() -> nn.Sequential:
    """conv, batch norm, relu, conv, flatten, linear, in double precision, with no value that is special."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    return net.double()


def batch(count: int = 5) -> Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Residual(nn.Module):
    """Channels that two convolutions read, a sum goes on with, and a linear layer reads behind a pool."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 4, 3, padding=1)
        self.right = nn.Conv2d(4, 3, 1)
        self.head = nn.Linear(4, 2)
        self.side = nn.Linear(3, 2)
        self.double()

    def forward(self, x: Tensor, gates: Any = None) -> Tensor:
        """``gates``: of the three layers that read the stem's channels, each of shape (samples, 4)."""
        g = [1.0, 1.0, 1.0] if gates is None else [gate[:, :, None, None] for gate in gates[:2]] + [gates[2]]
        x = self.stem(x).relu()
        y = x + self.left(x * g[0])
        return self.head(y.mean((2, 3)) * g[2]) + self.side(self.right(x * g[1]).relu().amax((2, 3)))


def prepared(net: nn.Module, inputs: Any) -> tuple[ChannelMutator, dict[str, MutableChannelUnit]]:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, inputs)
    return mutator, {unit.name: unit for unit in mutator.mutable_units}


def close(found: Tensor, expected: list[float]) -> bool:
    assert found.dtype == torch.float64
    return torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0)
