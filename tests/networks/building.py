"""From a spec, which is plain nested tuples, to a network: ``("conv", 8, 3, "batch", "relu")`` and so on.

A block takes any number of channels and says how many it gives. What it needs to divide them, it makes divisible by a
convolution of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "BLOCKS",
    "Built",
    "Chain",
    "Lambda",
    "Spec",
    "block",
    "build_chain",
    "chains",
    "take",
    "widths",
]

Spec = tuple[Any, ...]


@dataclass
class Built:
    """A block of a network.

    Attributes:
        module: The block.
        channels: How many it gives.
        inner: Modules in it whose outputs nothing outside can reach: they must be able to change in any network.
        outer: Modules whose outputs must be able to change where nothing else in the network ties or pins channels.
        ties: How often it ties channels to each other, such as those of different groups.
        pins: Whether it has an operator that can't be followed, or a number that can't follow.
        reads: Bare parameters with the dim over which they are multiplied into activations.
    """

    module: nn.Module
    channels: int
    inner: tuple[str, ...] = ()
    outer: tuple[str, ...] = ()
    ties: int = 0
    pins: bool = False
    reads: tuple[tuple[str, int], ...] = ()


Builder = Callable[..., Built]
BLOCKS: dict[str, dict[str, tuple[Callable[[int], st.SearchStrategy[Spec]], Builder]]] = {"maps": {}, "tokens": {}}
"""Kind of tensor → name of the block → (depth → strategy of its arguments, what builds it from channels and these)."""


def widths() -> st.SearchStrategy[int]:
    return st.integers(2, 10)


def block(kind: str, *arguments: Any) -> Callable[[Builder], Builder]:
    """Decorator: add a block.

    Args:
        kind: ``"maps"`` (B, C, H, W) or ``"tokens"`` (B, N, C).
        arguments: Strategies, or functions from the depth that is left to one.
    """

    def add(builder: Builder) -> Builder:
        def strategy(depth: int) -> st.SearchStrategy[Spec]:
            return st.tuples(*(a if isinstance(a, st.SearchStrategy) else a(depth) for a in arguments))

        BLOCKS[kind][builder.__name__.strip("_")] = (strategy, builder)
        return builder

    return add


def chains(kind: str, depth: int, least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[Spec, ...]]:
    """Strategy for blocks one after the other, with others inside them ``depth`` levels deep."""
    nested = {"residual", "concatenate", "branches", "on_tokens", "prenorm"}
    options = [
        strategy(depth - 1).map(lambda arguments, name=name: (name, *arguments))
        for name, (strategy, _) in BLOCKS[kind].items()
        if depth > 0 or name not in nested
    ]
    return st.lists(st.one_of(options), min_size=least, max_size=most).map(tuple)


class Chain(nn.Module):
    """Blocks one after the other."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        for module in self.blocks:
            x = module(x)
        return x


def build_chain(kind: str, channels: int, specs: tuple[Spec, ...]) -> Built:
    """Build blocks one after the other."""
    whole = Built(Chain([]), channels)
    for number, (name, *arguments) in enumerate(specs):
        part = BLOCKS[kind][name][1](whole.channels, *arguments)
        whole.module.blocks.append(part.module)
        take(whole, part, f"blocks.{number}")
        whole.channels = part.channels
    return whole


def take(whole: Built, part: Built, name: str) -> None:
    """Add what is known of a part that stands in ``whole`` under ``name``."""
    whole.inner += tuple(_inside(name, part.inner))
    whole.outer += tuple(_inside(name, part.outer))
    whole.ties += part.ties
    whole.pins |= part.pins
    whole.reads += tuple((f"{name}.{tensor}", dim) for tensor, dim in part.reads)


def _inside(name: str, names: tuple[str, ...]) -> Iterator[str]:
    return (f"{name}.{inner}" if inner else name for inner in names)


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _none(x: Tensor) -> Tensor:
    return x


def _relu_(x: Tensor) -> Tensor:
    return x.relu_()


def _quick(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.7 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": _none, "relu": F.relu, "relu_": _relu_, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh,
    "hardswish": F.hardswish, "softplus": F.softplus, "quick": _quick, "elu": F.elu, "leaky": F.leaky_relu,
}  # fmt: skip
