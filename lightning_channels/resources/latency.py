"""Latency of any choice, from measurements at a few."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_channels._plain import is_int, is_number, read_file, write_file
from lightning_channels._progress import Progress, check_progress, told
from lightning_channels._rng import preserve_rng
from lightning_channels.errors import ConfigError, StructureError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources.bench import Bench, numbers_of
from lightning_channels.resources.latency_data import HeldOut, LatencyData
from lightning_channels.resources.operator_sums import OperatorSums, Work
from lightning_channels.tracing.running import ExampleInputs, batch_size

__all__ = ["HeldOut", "LatencyModel"]

_ROUGH = 0.2  # where estimates that are off by more say little


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
        where = _checked_device(device)
        _check_mutator(mutator)
        _check_arguments(shares, random_choices)
        rng = random.Random(seed)
        grid = [_share(mutator, share) for share in sorted({*shares, 0.0, 1.0})]
        drawn = [mutator.sample_choices("random", rng) for _ in range(2 * random_choices)]
        fitted, others = [grid[0], grid[-1], *drawn[:random_choices]], drawn[random_choices:]
        bench = Bench(mutator, example_inputs, where)
        with preserve_rng(), told(progress, "measuring latency", len(grid) + 2 + len(drawn), "subnet") as step:
            times = bench.timed(grid, step)
            sums = OperatorSums(Work(mutator), times)
            raw = sums.at(numbers_of(mutator, fitted))
            scale, offset = _fit(raw, torch.tensor(bench.measured(fitted, step), dtype=torch.float64))
            measured = bench.measured(others, step)
        predicted = (sums.at(numbers_of(mutator, others)) * scale + offset).clamp_min(0).tolist()
        held_out = tuple(HeldOut(*pair) for pair in zip(predicted, measured, strict=True))
        threads, batch = torch.get_num_threads(), batch_size(example_inputs)
        self._sums = sums
        self._data = LatencyData(str(where), threads, batch, _units(mutator), times, scale, offset, held_out)

    # --- what was found ----------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where it was measured."""
        return torch.device(self._data.device)

    @property
    def threads(self) -> int:
        """How many threads a CPU had."""
        return self._data.threads

    @property
    def batch_size(self) -> int | None:
        """How many examples the latency is for; None where the example inputs don't say."""
        return self._data.batch_size

    @property
    def units(self) -> dict[str, int]:
        """Name → channels of the mutable units, in their order."""
        return dict(self._data.units)

    @property
    def scale(self) -> float:
        """Milliseconds of the whole model for each of the operators alone."""
        return self._data.scale

    @property
    def offset(self) -> float:
        """Milliseconds that don't depend on the choice."""
        return self._data.offset

    @property
    def held_out(self) -> tuple[HeldOut, ...]:
        """Predicted and measured latencies of choices that took no part."""
        return self._data.held_out

    @property
    def error(self) -> float:
        """Their mean relative difference."""
        return sum(pair.error for pair in self.held_out) / len(self.held_out)

    def predict(self, numbers: Tensor) -> Tensor:
        """Estimated milliseconds.

        Args:
            numbers: Active channels of each mutable unit, int64, shape (n, units).

        Returns:
            Float64 of shape (n,).
        """
        return (self._sums.at(numbers) * self.scale + self.offset).clamp_min(0)

    def told(self) -> tuple[str, str]:
        """For a message: where it was measured, and how far its estimates are off."""
        threads = "" if self.device.type != "cpu" else f" ({self.threads} thread{'s' * (self.threads > 1)})"
        batch = "" if self.batch_size is None else f", batch of {self.batch_size}"
        rough = "; a busy machine measures badly" if self.error > _ROUGH else ""
        return f"{self.device}{threads}{batch}", f"estimates are off by {self.error:.1%} on average{rough}"

    def __repr__(self) -> str:
        return f"LatencyModel(device={self.device}, error={self.error:.1%} at {len(self.held_out)} held-out choices)"

    # --- kept for later ----------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """What was measured, as plain data; :meth:`from_dict` makes an equal estimate of it, to the last bit."""
        return self._data.to_dict()

    @classmethod
    def from_dict(cls, mutator: ChannelMutator, data: Mapping[str, Any]) -> LatencyModel:
        """An estimate from what was measured before, here or elsewhere.

        Args:
            mutator: One with the same mutable units.
            data: What :meth:`to_dict` returned.

        Raises:
            StructureError: If it is something else, or of other units.
            ConfigError: If the mutator knows nothing of its model's operators.
        """
        read = LatencyData.of(data)
        _check_mutator(mutator)
        if list(read.units.items()) != list(_units(mutator).items()):
            other = sorted(set(read.units.items()) ^ set(_units(mutator).items()))
            names = ", ".join(dict.fromkeys(name for name, _ in other[:3])) or "their order differs"
            raise StructureError(f"the latency was measured on a model with other units ({names}); measure this one's")
        model = cls.__new__(cls)
        model._data, model._sums = read, OperatorSums(Work(mutator), read.operators)
        return model

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write what was measured to a YAML or JSON file.

        Returns:
            The path written.

        Raises:
            ConfigError: If its ending is another one.
        """
        return write_file(path, self.to_dict())

    @classmethod
    def load(cls, mutator: ChannelMutator, path: str | os.PathLike[str]) -> LatencyModel:
        """An estimate from a file that :meth:`save` wrote.

        Args:
            mutator: One with the same mutable units.
            path: The file.

        Raises:
            ConfigError: If it can't be read, or what is in it doesn't fit.
        """
        return cls.from_dict(mutator, read_file(path))


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


def _units(mutator: ChannelMutator) -> dict[str, int]:
    return {unit.name: unit.num_channels for unit in mutator.mutable_units}


def _check_mutator(mutator: ChannelMutator) -> None:
    if not mutator.costs.macs or not mutator.costs.activations or not mutator.mutable_units:
        raise ConfigError(
            "latency is estimated from the operators of a traced model that has mutable units, and this mutator knows "
            "of none; find its units with a ForwardTracer"
        )


def _check_arguments(shares: Any, random_choices: Any) -> None:
    if not all(is_number(share) and 0 < share < 1 for share in shares):
        raise ConfigError(f"shares must lie between 0 and 1, got {shares!r}")
    if not is_int(random_choices) or random_choices < 1:
        raise ConfigError(f"random_choices must be at least 1, got {random_choices!r}")
