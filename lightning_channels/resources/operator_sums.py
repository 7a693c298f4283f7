"""What all operators of a choice take together, between the choices at which they were timed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources.latency_data import Times
from lightning_channels.resources.sums import Sums

__all__ = ["OperatorSums", "Work"]


class Work:
    """What decides how long a module's operators take: the multiply-accumulates, or the bytes that they make.

    Args:
        mutator: A mutator that knows these.
    """

    def __init__(self, mutator: ChannelMutator) -> None:
        costs, units = mutator.costs, mutator.mutable_units
        sums = {
            f"{kind} {module}": products
            for kind, modules in (("macs", costs.macs), ("activations", costs.activations))
            for module, products in modules.items()
        }
        everything = [entry for products in costs.activations.values() for entry in products]
        self._sums = Sums(costs.sizes, {**sums, "": everything}, costs.columns(units))
        self._groups = torch.tensor([unit.groups for unit in units], dtype=torch.long)

    def of(self, module: str, kind: str) -> str:
        """Name of what decides about a module's operators; all bytes of the model where it makes none (in place)."""
        return f"{kind} {module}" if f"{kind} {module}" in self._sums.names else ""

    def at(self, numbers: Tensor) -> dict[str, Tensor]:
        """All of that, at choices: numbers of channels, shape (n, units)."""
        return self._sums.at(numbers.cpu() / self._groups)


class OperatorSums:
    """Adds up what was timed.

    Args:
        work: Of the model.
        times: What was timed.
    """

    def __init__(self, work: Work, times: Iterable[Times]) -> None:
        self._work = work
        self._curves = [(work.of(own.module, own.kind), _vector(own.work), _vector(own.milliseconds)) for own in times]

    def at(self, numbers: Tensor) -> Tensor:
        """Milliseconds at choices: numbers of channels, shape (n, units), give shape (n,)."""
        works = self._work.at(numbers)
        total = torch.zeros(len(numbers), dtype=torch.float64)
        for name, work, taken in self._curves:
            total += _between(works[name], work, taken)
        return total


def _vector(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _between(at: Tensor, work: Tensor, taken: Tensor) -> Tensor:
    """Linear interpolation; beyond the ends what is at them."""
    right = torch.searchsorted(work, at.contiguous()).clamp(1, len(work) - 1)
    low, high = work[right - 1], work[right]
    share = ((at - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return taken[right - 1] + share * (taken[right] - taken[right - 1])
