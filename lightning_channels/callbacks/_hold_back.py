"""Callbacks that watch a metric, held back until the pruning is finished.

A model that isn't pruned yet is better than what comes of it: it would be the best checkpoint of the run, and each step
of the pruning a step back for which a run is stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

from lightning_channels.callbacks._packages import is_lightnings

__all__ = ["HoldBack"]


class HoldBack:
    """Stands in for what a trainer's callbacks do with the metric that they monitor, while something isn't finished.

    Held back are early stopping, and checkpoints that are the best so far. Others are saved as ever: periodic ones, and
    the last.

    Args:
        trainer: The trainer.
        finished: Whether they may go on.
    """

    def __init__(self, trainer: Trainer, finished: Callable[[], bool]) -> None:
        self._stand_ins: list[tuple[Any, str, Any]] = []
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if is_lightnings(callback, "EarlyStopping"):
                self._put_on(callback, "_should_skip_check", finished, True)
            elif is_lightnings(callback, "ModelCheckpoint") and callback.monitor is not None:
                self._put_on(callback, "check_monitor_top_k", finished, False)

    def _put_on(self, callback: Any, name: str, finished: Callable[[], bool], held: bool) -> None:
        own = getattr(callback, name)

        def stand_in(*args: Any, **kwargs: Any) -> bool:
            return bool(own(*args, **kwargs)) if finished() else held

        callback.__dict__[name] = stand_in
        self._stand_ins.append((callback, name, stand_in))

    def take_off(self) -> None:
        """Give the callbacks their own methods back."""
        for callback, name, stand_in in self._stand_ins:
            if callback.__dict__.get(name) is stand_in:
                del callback.__dict__[name]
        self._stand_ins = []
