"""The module that is pruned: finding it, and whether it can be or was prepared."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_channels._modules import is_sharded
from lightning_channels.callbacks._packages import is_lightnings
from lightning_channels.dynamic_ops import is_dynamic, stored_candidates
from lightning_channels.errors import did_you_mean
from lightning_channels.mutators import ChannelMutator
from lightning_channels.mutators.preparation import MUTATOR

__all__ = [
    "check_can_prepare",
    "check_processes",
    "check_ranks_agree",
    "check_shards",
    "find_mutators",
    "find_target",
    "lost_modules",
]


def find_target(pl_module: LightningModule, name: str | None) -> nn.Module:
    """The submodule of that dotted name, or the module itself.

    Raises:
        MisconfigurationException: If there is none; the message names the nearest.
    """
    if name is None:
        return pl_module
    try:
        return pl_module.get_submodule(name)
    except AttributeError as error:
        names = [known for known, _ in pl_module.named_modules() if known]
        raise MisconfigurationException(
            f"{type(pl_module).__name__} has no submodule {name!r}{did_you_mean(name, names)}"
        ) from error


def find_mutators(target: nn.Module) -> dict[str, ChannelMutator]:
    """Name → mutator of each prepared module in ``target``, itself included (as ``""``)."""
    return {name: module.__dict__[MUTATOR] for name, module in target.named_modules() if module.__dict__.get(MUTATOR)}


def check_can_prepare(pl_module: LightningModule, target: nn.Module) -> None:
    """Refuse parameters that can't be sliced by channel.

    Raises:
        MisconfigurationException: If there are no parameters, or sharded or unmaterialised ones.
    """
    parameters = dict(target.named_parameters())
    if not parameters:
        raise MisconfigurationException(
            f"{type(target).__name__} has no parameters once {type(pl_module).__name__}'s __init__, setup and "
            "configure_model have run; build the net in one of these"
        )
    for name, parameter in parameters.items():
        is_flat = _kinds(parameter) & {"FlatParameter", "ShardedTensor"} or hasattr(parameter, "_flat_param")
        if is_sharded(parameter) or is_flat:
            raise MisconfigurationException(
                f"the parameter {name!r} is sharded already, and a shard has no whole channels. Prepare first: call "
                "ChannelMutator(...).prepare_from_supernet(model) in configure_model, before fully_shard(model)"
            )
        if parameter.is_meta:
            raise MisconfigurationException(
                f"the parameter {name!r} is on the meta device, so that nothing can be traced. Materialise the model "
                "in configure_model, or prepare it yourself before you shard it"
            )


def check_shards(pl_module: LightningModule, mutator: ChannelMutator) -> None:
    """Refuse a model that was prepared and then sharded in a way in which it can't be narrow.

    Raises:
        MisconfigurationException: If a module runs on shards, or if there are switchable norms among the sharded.
    """
    shards: list[Any] = list(filter(is_sharded, mutator.model.parameters()))
    if not shards:
        return
    whole_in_forward = any("FSDPModule" in _kinds(module) for module in pl_module.modules())
    twice = any(sum(not placement.is_replicate() for placement in shard.placements) > 1 for shard in shards)
    if not whole_in_forward or twice:
        raise MisconfigurationException(
            "the model's parameters are sharded by tensor parallelism, and a module that runs on shards of its "
            "channels can't be narrow. Shard it with fully_shard(model) alone, and leave out parallelize_module"
        )
    if stored_candidates(mutator.model):
        raise MisconfigurationException(
            "switchable norms, which have tensors for each candidate, can't be sharded. Use DDP, or units without them "
            "(SequentialMutableChannelUnit, OneShotMutableChannelUnit)"
        )


def check_processes(trainer: Trainer, mutator: ChannelMutator) -> None:
    """Refuse to add tensors to a module of which the process that called ``fit`` has a copy.

    Raises:
        MisconfigurationException: If the strategy starts processes of its own: it brings back what both copies have.
    """
    if is_lightnings(trainer.strategy.launcher, "_MultiProcessingLauncher") and stored_candidates(mutator.model):
        raise MisconfigurationException(
            "the strategy starts processes of its own, and what they train comes back into the tensors that the module "
            "has before; those that switchable norms get when the module is prepared would be lost. Prepare it before "
            "fit, with SlimmableChannelMutator(...).prepare_from_supernet(model, inputs), or use strategy='ddp'"
        )


def _kinds(item: object) -> set[str]:
    return {cls.__name__ for cls in type(item).__mro__}


def lost_modules(mutator: ChannelMutator) -> list[str]:
    """Names of modules that the mutator made dynamic and that were replaced by others since."""
    modules = dict(mutator.model.named_modules())
    names = {channel.name for unit in mutator.mutable_units for channel in unit.channels}
    return sorted(name for name in names if name not in modules or not is_dynamic(modules[name]))


_DIFFERENT = (
    "the ranks don't agree on the units or on the first step's choices, and would train different subnets without an "
    "error. Give each rank the same seed, sampler, units and model (a number for divisor='auto', where machines "
    "differ); a sampler must be a pure function of its arguments"
)


def check_ranks_agree(trainer: Trainer, who: str, facts: Any, message: str = _DIFFERENT) -> None:
    """Refuse to train if a rank has other units or would draw other choices: DDP itself would raise nothing.

    Args:
        trainer: The trainer.
        who: Whose facts they are.
        facts: Plain data that must be the same on all ranks.
        message: What to say if they aren't.

    Raises:
        MisconfigurationException: On all ranks, if one differs from rank zero.
    """
    if trainer.world_size == 1:
        return
    own = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    first = trainer.strategy.broadcast(own)
    if not trainer.strategy.reduce_boolean_decision(own == first, all=True):
        raise MisconfigurationException(f"{who}: {message}")
