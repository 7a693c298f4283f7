"""A model's subnets on a device, and how long they take there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_channels.export import export_subnet
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources.latency_data import Times
from lightning_channels.resources.operator_sums import Work
from lightning_channels.resources.timing import OperatorTimes, time_model
from lightning_channels.tracing.running import ExampleInputs, check_inputs, mapped

__all__ = ["Bench", "numbers_of"]

_BUDGET_OPERATOR, _BUDGET_MODEL = 0.005, 0.2


class Bench:
    """Measures exported subnets; the model stays where and as it is.

    Args:
        mutator: Of the model.
        inputs: What is run.
        device: Where it is.
    """

    def __init__(self, mutator: ChannelMutator, inputs: ExampleInputs, device: torch.device) -> None:
        self._mutator, self._device = mutator, device
        self._inputs = mapped(lambda tensor: tensor.to(device), check_inputs(inputs))

    def timed(self, grid: Sequence[Mapping[str, int | float]], step: Callable[[], object]) -> list[Times]:
        """What each module's operators take alone at the choices of the grid.

        Args:
            grid: Choices of all units.
            step: Called after each.
        """
        times = OperatorTimes(self._device, _BUDGET_OPERATOR)
        found: list[dict[tuple[str, str], float]] = []
        for choices in grid:
            found.append(times.of(self._subnet(choices), self._inputs))
            step()
        work = Work(self._mutator)
        works = work.at(numbers_of(self._mutator, grid))
        tables = []
        for place in dict.fromkeys(place for own in found for place in own):
            taken = torch.tensor([own.get(place, 0.0) for own in found], dtype=torch.float64) * 1e3
            ascending, order = works[work.of(*place)].sort()
            tables.append(Times(*place, ascending.tolist(), taken[order].tolist()))
        return tables

    def measured(self, chosen: Sequence[Mapping[str, int | float]], step: Callable[[], object]) -> list[float]:
        """Milliseconds of whole subnets.

        Args:
            chosen: Choices of all units.
            step: Called after each.
        """
        found = []
        for choices in chosen:
            found.append(time_model(self._subnet(choices), self._inputs, self._device, _BUDGET_MODEL) * 1e3)
            step()
        return found

    def _subnet(self, choices: Mapping[str, int | float]) -> Any:
        return export_subnet(self._mutator.model, choices).to(self._device).eval()


def numbers_of(mutator: ChannelMutator, chosen: Sequence[Mapping[str, int | float]]) -> Tensor:
    """Active channels of each mutable unit at choices of all of them, int64, shape (choices, units)."""
    rows = [[number for _, number in mutator.check_choices(choices)] for choices in chosen]
    return torch.tensor(rows, dtype=torch.long).reshape(len(chosen), len(mutator.mutable_units))
