"""Learning rates that begin anew once the pruning is finished.

Renda, Frankle and Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning" (ICLR 2020): training the
pruned subnet on the schedule of the training itself finds better weights than a small rate does.
"""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch import Trainer

from lightning_channels.callbacks._packages import is_lightnings
from lightning_channels.errors import ConfigError

__all__ = ["Rewind"]

_SCHEDULED = ("lr", "momentum", "betas")
"""What torch's schedulers write into an optimizer's groups."""


class Rewind:
    """The state in which a trainer's learning-rate schedulers begin.

    Args:
        trainer: Has made its optimizers and schedulers, and has loaded no state into them yet.

    Raises:
        ConfigError: If there is no scheduler, or one that will be exchanged for another.
    """

    def __init__(self, trainer: Trainer) -> None:
        _check(trainer)
        self._trainer = trainer
        self._schedulers = [copy.deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]
        self._groups = [[_scheduled(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers]

    def back(self) -> None:
        """Set the schedulers and the optimizers' rates back; the next step has the first rate."""
        for config, state in zip(self._trainer.lr_scheduler_configs, self._schedulers, strict=True):
            config.scheduler.load_state_dict(copy.deepcopy(state))
        for optimizer, groups in zip(self._trainer.optimizers, self._groups, strict=True):
            for group, begun in zip(optimizer.param_groups, groups, strict=True):
                group.update(copy.deepcopy(begun))


def _scheduled(group: dict[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(group[key]) for key in _SCHEDULED if key in group}


def _check(trainer: Trainer) -> None:
    if not trainer.lr_scheduler_configs:
        raise ConfigError(
            "recovery: lr_rewind=True sets learning-rate schedulers back to their start, and configure_optimizers "
            "returns none; return one, or leave lr_rewind out"
        )
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    if any(is_lightnings(callback, "StochasticWeightAveraging") for callback in callbacks):
        raise ConfigError(
            "recovery: lr_rewind=True doesn't go with StochasticWeightAveraging, which puts a scheduler of its own in "
            "the place of yours; leave out one of the two"
        )
