"""What is known by hand about one network, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["CASES", "Case", "case", "features", "ids", "images", "padded", "tokens", "width"]

M = TypeVar("M", bound=type[nn.Module])
Width = int | tuple[int, int]


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        build: Makes it.
        inputs: Makes example inputs for it.
        mutable: Every unit that can change: the module (or bare tensor) that gives it its name, to its number of
            channels, or (channels, groups). A unit that starts later on the module's side is ``"module[start]"``.
        refused: Every other unit that something gives and something reads, to a pattern of its reason.
        reads: Bare tensors with the dim over which they are multiplied into activations, such as ``("mix.weight", 0)``:
            no module says so.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    mutable: Mapping[str, Width]
    refused: Mapping[str, str] = field(default_factory=dict)
    reads: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        return getattr(self.build, "__name__", str(self.build))


CASES: list[Case] = []


def case(
    inputs: Callable[[], Any],
    mutable: Mapping[str, Width],
    refused: Mapping[str, str] | None = None,
    reads: tuple[tuple[str, int], ...] = (),
) -> Callable[[M], M]:
    """Class decorator: add a network that is made without arguments."""

    def add(cls: M) -> M:
        CASES.append(Case(cls, inputs, mutable, refused or {}, reads))
        return cls

    return add


def width(channels: int, groups: int) -> Width:
    """A unit's width as a case writes it."""
    return channels if groups == 1 else (channels, groups)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def images() -> Tensor:
    """A batch of 2 images, (2, 3, 8, 8)."""
    return _random(2, 3, 8, 8)


def features() -> Tensor:
    """A batch of 3 vectors, (3, 5)."""
    return _random(3, 5)


def tokens() -> Tensor:
    """Two sequences of 7 vectors, (2, 7, 5)."""
    return _random(2, 7, 5)


def padded() -> tuple[Tensor, Tensor]:
    """Two sequences of 7 vectors, and which of them are but padding."""
    return tokens(), torch.arange(7).expand(2, 7) > torch.tensor([[4], [6]])


def ids() -> Tensor:
    """Two sequences of 7 token numbers below 11."""
    return torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))
