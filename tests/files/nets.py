"""A network with something of everything that a structure tells: groups, heads, a bare tensor, integers."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator

STEM, GROUPED, HEADS = "stem_(0, 8)_8", "grouped_(0, 8)_8", "mix.qkv_(0, 8)_4"


class Mix(nn.Module):
    """Self-attention over the places of an image; ``tokens`` is no size of a view, and ``steps`` is never read."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = 9
        self.steps = 5
        self._hidden = 7
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, places = x.shape[:2]
        query, key, value = self.qkv(x).view(batch, places, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        return self.out(mixed.transpose(1, 2).reshape(batch, places, -1))


class Net(nn.Module):
    """Two convolutions, the second in groups, then attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.group_norm = nn.GroupNorm(4, 8)
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(8, 1, 1))
        self.register_buffer("count", torch.arange(8))
        self.mix = Mix(8, 4)
        self.head = nn.Linear(8, 5)

    @property
    def broken(self) -> Tensor:
        raise RuntimeError("a property was run")

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = self.group_norm(self.grouped(x)) * self.gain
        return self.head(self.mix(x.flatten(2).transpose(1, 2)).mean(1))


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def inputs() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))


_TRACED: list[dict[str, Any]] = []


def structure() -> dict[str, Any]:
    """Of a traced net, at widths that aren't the full ones."""
    if not _TRACED:
        mutator = ChannelMutator()
        mutator.prepare_from_supernet(net(), inputs())
        mutator.set_choices(mutator.sample_choices(rng=random.Random(3)))
        _TRACED.append(mutator.structure())
    return copy.deepcopy(_TRACED[0])


def facts(model: nn.Module) -> dict[str, Any]:
    """All that an error must leave as it was: classes, attributes, integers and tensors of every module."""
    return {
        name: (type(module), {key: _told(value) for key, value in module.__dict__.items()})
        for name, module in model.named_modules()
    }


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _told(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return id(value), value.detach().numpy().tobytes()
    return value if isinstance(value, int) else id(value)


class Bomb:
    """Pickles to a call that leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)
