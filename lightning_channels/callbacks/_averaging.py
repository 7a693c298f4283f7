"""Beside callbacks that average weights: the copies that they make, and statistics that they compute anew."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_channels.callbacks._packages import is_lightnings
from lightning_channels.dynamic_ops import stored_candidates
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices

__all__ = ["computes_statistics", "renew_copies", "statistics_choices"]

_STATISTICS = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}


def renew_copies(trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
    """Let callbacks that copied the module before it was prepared copy it again, where it has other tensors now.

    Preparing adds tensors to switchable norms alone, and averages are paired with the module's by their order.
    """
    names = [name for name, _ in (*pl_module.named_parameters(), *pl_module.named_buffers())]
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if any(is_lightnings(callback, name) for name in ("StochasticWeightAveraging", "WeightAveraging")):
            copied: Any = callback._average_model
            copied = getattr(copied, "module", copied)
            if copied is None:  # its setup is still to come
                continue
            if names != [name for name, _ in (*copied.named_parameters(), *copied.named_buffers())]:
                callback.setup(trainer, pl_module, stage)


def computes_statistics(trainer: Trainer) -> bool:
    """Whether training steps do nothing but update batch-norm statistics: stochastic weight averaging's last epoch."""
    return trainer.fit_loop._skip_backward


def statistics_choices(mutator: ChannelMutator, drawn: Choices, resting: Choices, batch_idx: int) -> Choices:
    """The choices for a batch of such an epoch: what the module is left at, and each subnet with norms of its own.

    Args:
        mutator: Steers the module.
        drawn: What the sampler draws for this batch.
        resting: What the module stands at after the run.
        batch_idx: The batch's index; all statistics begin anew with the first, also those that aren't active then.
    """
    if batch_idx == 0:
        _forget_statistics(mutator.model)
    subnets: list[Choices] = getattr(mutator, "subnets", [])
    if subnets:
        return dict(subnets[batch_idx % len(subnets)])
    return drawn if stored_candidates(mutator.model) else resting


def _forget_statistics(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in _STATISTICS.items() if isinstance(module, _BatchNorm) else ():
            buffer = module._buffers.get(name)
            if buffer is not None:
                buffer.fill_(value)
