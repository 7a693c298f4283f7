"""Networks that a format may trip over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator


class Small(nn.Module):
    """A convolution and a linear layer; ``after`` is what becomes of the result."""

    def __init__(self, after: nn.Module | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        self.after = nn.Identity() if after is None else after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.head(torch.relu(self.norm(self.stem(x))).mean((2, 3))))


class Branching(nn.Module):
    """Decides by a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Fixed(nn.Module):
    """Is written for one size of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 2, 2)


class Different(nn.Module):
    """Computes something else where it is captured."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_exporting() else x


class Keeping(nn.Module):
    """Keeps what it computed in a dict of its own, as some attentions do in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.kept:
            self.kept["bias"] = torch.arange(x.shape[1], dtype=x.dtype)
        return x + self.kept["bias"]


class Masked(nn.Module):
    """Keyword arguments, out of order and one unused; a table whose size isn't the batch's; a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, tokens: Tensor, table: Tensor, mask: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        x = self.down(torch.relu(self.up(tokens + table))) * mask[..., None]
        return {"tokens": x * scale, "mean": x.mean(1)}


def prepared(model: nn.Module, inputs: Any, widths: str = "half") -> ChannelMutator:
    """A mutator whose units keep half of their channels, the last ones with ``"last"``."""
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    assert mutator.mutable_units
    for unit in mutator.mutable_units:
        inside = unit.num_channels // unit.groups
        count = max(inside // 2, 1)
        first = 0 if widths == "half" else inside - count
        unit.keep([group * inside + first + place for group in range(unit.groups) for place in range(count)])
    return mutator


def images(batch: int = 2, size: int = 8) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
