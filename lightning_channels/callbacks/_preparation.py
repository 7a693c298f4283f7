"""Getting a mutator for a LightningModule that has just been built."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn

from lightning_channels._rng import preserve_rng
from lightning_channels.callbacks._choices import Held
from lightning_channels.callbacks._example import find_example_inputs
from lightning_channels.callbacks._source import MutatorSource
from lightning_channels.callbacks._sync_norm import KeepDynamic
from lightning_channels.callbacks._target import check_can_prepare, find_mutators, lost_modules
from lightning_channels.errors import ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources import ResourceCounter

__all__ = ["adopt", "describe", "prepare"]


def adopt(source: MutatorSource, target: nn.Module, current: ChannelMutator | None) -> ChannelMutator | None:
    """The mutator that prepared the target before: by hand, or for an earlier run.

    Args:
        source: What the callback was asked for.
        target: The module to prune.
        current: The callback's mutator so far.

    Raises:
        ConfigError: If the target was prepared with other units than those asked for.
    """
    found = find_mutators(target)
    mutator = found.get("") or (next(iter(found.values())) if len(found) == 1 else None)
    if mutator is None or lost_modules(mutator):  # setup() built the net anew
        return None
    if mutator is not current and not source.fits(mutator):
        raise ConfigError(
            "the model is prepared already, with other units than the callback asks for; leave out mutator and unit, "
            "or call ChannelPruning.restore(model) first"
        )
    if mutator is not current and source.structure is not None:
        mutator.load_structure(source.structure)
    return mutator


def prepare(
    source: MutatorSource,
    trainer: Trainer,
    pl_module: LightningModule,
    target: nn.Module,
    *,
    stage: str,
    example_inputs: Any,
    verify: bool | Literal["full"],
) -> ChannelMutator:
    """Build a mutator and prepare the target with it; the random number generators stay as they are.

    Raises:
        ChannelsError: If that fails; the target is then as it was.
        MisconfigurationException: If the target can't be prepared, or if there are no example inputs.
    """
    stale = find_mutators(target).get("")
    if stale is not None:
        stale.restore()
    mutator = source.build()
    check_can_prepare(pl_module, target)
    if len({parameter.device for parameter in pl_module.parameters()}) > 1:
        pl_module.to(trainer.strategy.root_device)  # built partly on the device, where all of it is going
    sync = KeepDynamic.install(trainer) if stage == "fit" else None
    if sync is not None:
        sync.apply(target)
    with preserve_rng(), torch.compiler.set_stance("force_eager"):  # a compiled module would be traced compiled
        inputs = example_inputs
        if mutator.needs_inputs:  # what was traced before needs none
            inputs = find_example_inputs(trainer, pl_module, target, example_inputs, stage)
        mutator.prepare_from_supernet(target, inputs, verify=verify)
    if not mutator.mutable_units:
        reasons = dict.fromkeys(f"{unit.name} {unit.why_not()}" for unit in mutator.units)
        mutator.restore()
        raise ConfigError(
            f"{type(target).__name__} has {len(reasons)} units and none of them is mutable, so there is nothing to "
            f"prune: {'; '.join(list(reasons)[:3])}{'; …' if len(reasons) > 3 else ''}"
        )
    return mutator


def describe(who: str, mutator: ChannelMutator) -> None:
    """Print one line about what was found, on rank zero."""
    held = Held(mutator)
    mutator.set_choices(mutator.sample_choices("min"))
    counter = ResourceCounter(mutator)
    total, least = counter.total_params, counter.active_params()
    held.put_back()
    rank_zero_info(
        f"{who}: {len(mutator.units)} units, {len(mutator.mutable_units)} of them mutable; up to "
        f"{1 - least / max(total, 1):.1%} of {total:,} parameters can be pruned; print(callback.mutator.report()) "
        "lists them, and why what can't change can't"
    )
