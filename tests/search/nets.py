"""Spaces that are small enough to go through, and metrics whose optimum is known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightning_channels import ChannelMutator, SearchSpace

METRIC = "val_acc"
WORTH = (1.0, 2.0, 0.5)


def chain(widths: Sequence[int] = (16, 16, 16)) -> nn.Sequential:
    """Linear layers: a unit between any two."""
    torch.manual_seed(0)
    sizes = [4, *widths, 2]
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def prepared(widths: Sequence[int] = (16, 16, 16), unit: Any = "SequentialMutableChannelUnit") -> ChannelMutator:
    mutator = ChannelMutator(unit)
    mutator.prepare_from_supernet(chain(widths), torch.ones(1, 4), verify=False)
    return mutator


def space_of(
    limits: Mapping[str, Any] | None = None, widths: Sequence[int] = (16, 16, 16), divisor: int = 1
) -> SearchSpace:
    return SearchSpace(prepared(widths), limits=limits, divisor=divisor)


def concave(worth: Sequence[float] = WORTH) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    """Separable and concave: every channel counts less than the one before."""

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        return {METRIC: sum(own * math.log(number) for own, number in zip(worth, choices.values(), strict=True))}

    return evaluate


def every(space: SearchSpace) -> list[dict[str, Any]]:
    """All choices within the limits, found without the search."""
    names, widths = zip(*space.candidates.items(), strict=True)
    points = [dict(zip(names, numbers, strict=True)) for numbers in itertools.product(*widths)]
    counts = space.resources.measure(torch.tensor([list(point.values()) for point in points]))
    inside = [all(counts[name][at] <= most for name, most in space.limits.items()) for at in range(len(points))]
    return [point for point, is_inside in zip(points, inside, strict=True) if is_inside]


def optimum(space: SearchSpace, evaluate: Callable[[Mapping[str, Any]], dict[str, float]]) -> float:
    return max(evaluate(point)[METRIC] for point in every(space))
