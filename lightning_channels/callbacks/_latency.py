"""A target in milliseconds: latency measured once, on rank zero, and shared with the other ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_channels._modules import is_sharded
from lightning_channels._plain import is_int, read_file
from lightning_channels._progress import Progress, check_progress
from lightning_channels.callbacks._example import find_example_inputs
from lightning_channels.errors import ConfigError, check_keys
from lightning_channels.mutators import ChannelMutator
from lightning_channels.pruning import Pruner, TargetLike, parse_target
from lightning_channels.resources import LatencyModel, Resources
from lightning_channels.resources.latency_data import LatencyData
from lightning_channels.tracing.running import ExampleInputs, with_batch

__all__ = ["Measuring", "latency_for", "latency_line", "read_latency"]

_LATENCY = "latency_ms"


@dataclass(frozen=True)
class Measuring:
    """How latency is measured, or what was measured before.

    Args:
        known: What was measured before; the rest is of no matter then.
        device: Where; by default where the module is.
        batch_size: How many examples are run at once; 1 by default, or as many as the example inputs given here have.
        example_inputs: What is run; by default what the module is traced with.
        shares: As :class:`LatencyModel` takes them.
        random_choices: As :class:`LatencyModel` takes them.
        seed: As :class:`LatencyModel` takes it.
        progress: As :class:`LatencyModel` takes it; by default a bar where the trainer shows one.
    """

    known: LatencyData | None = None
    device: str | None = None
    batch_size: int | None = None
    example_inputs: Any = None
    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    random_choices: int = 4
    seed: int = 0
    progress: Progress = None


_OPTIONS = tuple(field.name for field in fields(Measuring) if field.name != "known")


def read_latency(pruning: Mapping[str, Any] | None, target: TargetLike | None) -> Measuring | None:
    """How to measure, as the user says it; None where no target is in milliseconds.

    Args:
        pruning: The callback's argument; as ``latency`` it may have a dict of options, a measured
            :class:`LatencyModel`, or the path of a file that one saved.
        target: What is to be reached.

    Raises:
        ConfigError: If it is something else, if an option isn't allowed, or if there is no such target.
    """
    given = None if pruning is None else pruning.get("latency")
    if target is None or _LATENCY not in parse_target(target).amounts:
        if given is not None:
            raise ConfigError(f"pruning: latency is for a target of {_LATENCY}, such as target={{'{_LATENCY}': '50%'}}")
        return None
    if given is None or given == {}:
        return Measuring()
    if isinstance(given, LatencyModel):
        return Measuring(LatencyData.of(given.to_dict()))
    if isinstance(given, (str, os.PathLike)):
        return Measuring(LatencyData.of(read_file(given)))
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"pruning: latency must be a dict of options ({', '.join(_OPTIONS)}), a LatencyModel or the path of one "
            f"that was saved, got {given!r}"
        )
    check_keys(given, _OPTIONS, "pruning: latency")
    found = Measuring(**given)
    if found.batch_size is not None and (not is_int(found.batch_size) or found.batch_size < 1):
        raise ConfigError(f"pruning: latency: batch_size must be a number of examples, got {found.batch_size!r}")
    check_progress(found.progress)
    return found


def latency_for(
    measuring: Measuring, trainer: Trainer, module: LightningModule, mutator: ChannelMutator, example_inputs: Any
) -> dict[str, Any]:
    """What a :class:`LatencyModel` of the module measures, as plain data; rank zero does, and all ranks get that.

    Args:
        measuring: How.
        trainer: Trains the module.
        module: The module.
        mutator: Of what is prepared in it.
        example_inputs: What that was traced with, if the user said so.

    Raises:
        ConfigError: On all ranks, if it can't be measured.
        MisconfigurationException: If there are no example inputs.
    """
    if measuring.known is not None:
        return measuring.known.to_dict()
    if any(map(is_sharded, module.parameters())):
        raise ConfigError(
            "no latency can be measured where parameters are sharded, since no rank has all of them. Measure a "
            "LatencyModel of the module before, save it, and pass its path: pruning={'latency': 'latency.json'}"
        )
    found: Any = None
    if trainer.is_global_zero:
        try:
            found = _measured(measuring, trainer, module, mutator, example_inputs).to_dict()
        except Exception as error:
            trainer.strategy.broadcast(f"rank zero could not measure the latency: {error}")  # the others wait for it
            raise
    found = trainer.strategy.broadcast(found)
    if isinstance(found, str):
        raise ConfigError(found)
    return dict(found)


def _measured(
    measuring: Measuring, trainer: Trainer, module: LightningModule, mutator: ChannelMutator, example_inputs: Any
) -> LatencyModel:
    with torch.compiler.set_stance("force_eager"):
        inputs = measuring.example_inputs
        if inputs is None:
            inputs = find_example_inputs(trainer, module, mutator.model, example_inputs, "fit")
        shows = trainer.progress_bar_callback is not None
        return LatencyModel(
            mutator,
            _sized(inputs, measuring),
            measuring.device or module.device,
            shares=measuring.shares,
            random_choices=measuring.random_choices,
            seed=measuring.seed,
            progress=shows if measuring.progress is None else measuring.progress,
        )


def _sized(inputs: ExampleInputs, measuring: Measuring) -> ExampleInputs:
    if measuring.batch_size is None and measuring.example_inputs is not None:
        return inputs
    return with_batch(inputs, measuring.batch_size or 1)


def latency_line(resources: Resources, pruner: Pruner) -> str:
    """One line that says what was measured, and what is to be reached.

    Args:
        resources: With the latency.
        pruner: Has begun with these.
    """
    measured = resources.latency
    assert measured is not None
    where, error = measured.told()
    return (
        f"latency on {where}: {resources.totals[_LATENCY]:.4g} ms at full width, target "
        f"{pruner.limits[_LATENCY]:.4g} ms, reachable {pruner.least[_LATENCY]:.4g} ms; {error}"
    )
