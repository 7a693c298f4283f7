"""Latency of any choice, from measurements at a few."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_channels._progress import Progress, check_progress, told
from lightning_channels.errors import ConfigError
from lightning_channels.export import export_subnet
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources.sums import Sums
from lightning_channels.resources.timing import OperatorTimes, time_model
from lightning_channels.tracing.running import ExampleInputs, check_inputs, mapped

__all__ = ["HeldOut", "LatencyModel"]

_BUDGET_OPERATOR, _BUDGET_MODEL = 0.005, 0.2


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A random choice that took no part in fitting: its latency as predicted and as measured, in milliseconds."""

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative difference."""
        return abs(self.predicted - self.measured) / self.measured


class LatencyModel:
    """Estimates the latency of any choice of a traced model on one device, without running the model each time.

    Units are set to a few shares of their widths together; each operator of these subnets is timed alone. What a
    module's operators take at another choice lies between, by the multiply-accumulates or the bytes that they make
    there. The sum over all of them is scaled, and shifted, to fit whole exported models that are measured at full
    width, at the narrowest one and at random choices. How far it is off at other random choices is in ``held_out``: it
    is an estimate, and only as good as that, for this device, its load and this batch.

    Args:
        mutator: A mutator that traced its model, or was rebuilt from the structure of one that did.
        example_inputs: What is run; the batch decides about the latency.
        device: ``"cpu"``, ``"cuda"`` or a single GPU such as ``"cuda:0"``.
        shares: Of all units' widths, at which operators are timed; full width and the narrowest come by themselves.
        random_choices: How many random choices are measured to fit, and as many again to see how well that went.
        seed: Of the random choices.
        progress: True for a bar on the standard error, or a function that is called with the number of subnets that are
            done, and of all, after each.

    Attributes:
        device: Where it was measured.
        scale: Milliseconds of the whole model for each of the operators alone.
        offset: Milliseconds that don't depend on the choice.
        held_out: Predicted and measured latencies of choices that took no part.
        error: Their mean relative difference.

    Raises:
        ConfigError: If the device isn't there, the mutator knows nothing of its model's operators, or ``progress`` is
            something else.
    """

    def __init__(
        self,
        mutator: ChannelMutator,
        example_inputs: ExampleInputs,
        device: str | torch.device = "cpu",
        *,
        shares: Sequence[float] = (0.75, 0.5, 0.25),
        random_choices: int = 4,
        seed: int = 0,
        progress: Progress = None,
    ) -> None:
        check_progress(progress)
        self.device = _checked_device(device)
        self._mutator = mutator
        _check_arguments(mutator, shares, random_choices)
        self._inputs = mapped(lambda tensor: tensor.to(self.device), check_inputs(example_inputs))
        rng = random.Random(seed)
        grid = [_share(mutator, share) for share in sorted({*shares, 0.0, 1.0})]
        drawn = [mutator.sample_choices("random", rng) for _ in range(2 * random_choices)]
        self._units = [(unit.name, unit.num_channels, unit.groups) for unit in mutator.mutable_units]
        self._work = _Work(mutator)
        with told(progress, "measuring latency", len(grid) + 2 + len(drawn), "subnet") as step:
            self._tables = self._timed(grid, step)
            fitted, others = [grid[0], grid[-1], *drawn[:random_choices]], drawn[random_choices:]
            self.scale, self.offset = _fit(self._raw(self._numbers(fitted)), self._measured(fitted, step))
            measured = self._measured(others, step)
        pairs = zip(self.predict(self._numbers(others)), measured, strict=True)
        self.held_out = tuple(HeldOut(float(predicted), float(taken)) for predicted, taken in pairs)
        self.error = sum(pair.error for pair in self.held_out) / len(self.held_out)

    def predict(self, numbers: Tensor) -> Tensor:
        """Estimated milliseconds.

        Args:
            numbers: Active channels of each mutable unit, int64, shape (n, units).

        Returns:
            Float64 of shape (n,).
        """
        return (self._raw(numbers) * self.scale + self.offset).clamp_min(0)

    def __repr__(self) -> str:
        return f"LatencyModel(device={self.device}, error={self.error:.1%} at {len(self.held_out)} held-out choices)"

    # --- measuring ---------------------------------------------------------------------------------------------------

    def _subnet(self, choices: Mapping[str, int | float]) -> Any:
        return export_subnet(self._mutator.model, choices).to(self.device).eval()

    def _timed(
        self, grid: Sequence[Mapping[str, int | float]], step: Callable[[], object]
    ) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        """(module, kind) → work and milliseconds at each choice of the grid, ascending by work."""
        times, found = OperatorTimes(self.device, _BUDGET_OPERATOR), list[dict[tuple[str, str], float]]()
        for choices in grid:
            found.append(times.of(self._subnet(choices), self._inputs))
            step()
        works = self._work.at(self._numbers(grid) / self._groups)
        tables = {}
        for place in dict.fromkeys(place for own in found for place in own):
            taken = torch.tensor([own.get(place, 0.0) for own in found], dtype=torch.float64) * 1e3
            work, order = works[self._work.of(place)].sort()
            tables[place] = work, taken[order]
        return tables

    def _measured(self, chosen: Sequence[Mapping[str, int | float]], step: Callable[[], object]) -> Tensor:
        """Milliseconds of whole models."""
        found = []
        for choices in chosen:
            found.append(time_model(self._subnet(choices), self._inputs, self.device, _BUDGET_MODEL) * 1e3)
            step()
        return torch.tensor(found, dtype=torch.float64)

    # --- predicting --------------------------------------------------------------------------------------------------

    @property
    def _groups(self) -> Tensor:
        return torch.tensor([groups for _, _, groups in self._units], dtype=torch.long)

    def _numbers(self, chosen: Sequence[Mapping[str, int | float]]) -> Tensor:
        rows = [[number for _, number in self._mutator.check_choices(choices)] for choices in chosen]
        return torch.tensor(rows, dtype=torch.long).reshape(len(chosen), len(self._units))

    def _raw(self, numbers: Tensor) -> Tensor:
        """The sum of the operators alone."""
        works = self._work.at(numbers.cpu() / self._groups)
        total = torch.zeros(len(numbers), dtype=torch.float64)
        for place, (work, taken) in self._tables.items():
            total += _between(works[self._work.of(place)], work, taken)
        return total


class _Work:
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

    def of(self, place: tuple[str, str]) -> str:
        """Name of what decides about a module's operators; all bytes of the model where it makes none (in place)."""
        module, kind = place
        return f"{kind} {module}" if f"{kind} {module}" in self._sums.names else ""

    def at(self, numbers: Tensor) -> dict[str, Tensor]:
        """All of that, at choices."""
        return self._sums.at(numbers)


def _between(at: Tensor, work: Tensor, taken: Tensor) -> Tensor:
    """Linear interpolation; beyond the ends what is at them."""
    right = torch.searchsorted(work, at.contiguous()).clamp(1, len(work) - 1)
    low, high = work[right - 1], work[right]
    share = ((at - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return taken[right - 1] + share * (taken[right] - taken[right - 1])


def _fit(raw: Tensor, measured: Tensor) -> tuple[float, float]:
    """Scale and offset with the least relative errors; without an offset where that would leave no scale."""
    weights = 1 / measured
    columns = torch.stack([raw * weights, weights], 1)
    scale, offset = (
        torch.linalg.lstsq(columns, torch.ones(len(raw), 1, dtype=torch.float64)).solution.flatten().tolist()
    )
    if scale > 0 and offset >= 0:
        return scale, offset
    return float((measured / raw).mean()), 0.0


def _share(mutator: ChannelMutator, share: float) -> dict[str, int | float]:
    """The choice of all units at a share of their widths, or as narrow as they get."""
    if share == 0:
        return mutator.sample_choices("min")
    return {u.name: u.choice_of(u.allowed_number(share * u.num_channels)) for u in mutator.mutable_units}


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be 'cpu' or 'cuda', got {device!r}") from error
    if checked.type not in ("cpu", "cuda") or (checked.type == "cuda" and not torch.cuda.is_available()):
        known = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ConfigError(f"device must be one that latency can be measured on here ({known}), got {device!r}")
    return checked


def _check_arguments(mutator: ChannelMutator, shares: Sequence[float], random_choices: int) -> None:
    if not mutator.costs.macs or not mutator.costs.activations or not mutator.mutable_units:
        raise ConfigError(
            "latency is estimated from the operators of a traced model that has mutable units, and this mutator knows "
            "of none; find its units with a ForwardTracer"
        )
    if not all(0 < share < 1 for share in shares):
        raise ConfigError(f"shares must lie between 0 and 1, got {list(shares)!r}")
    if random_choices < 1:
        raise ConfigError(f"random_choices must be at least 1, got {random_choices!r}")
