"""Fine-tuning of the pruned subnet, which learns from the unpruned model besides its own loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_channels.callbacks._calls import Call, CallWatch
from lightning_channels.callbacks._step import StepStandIn, with_more_loss
from lightning_channels.callbacks._teacher import Teacher
from lightning_channels.distillation import Distillation
from lightning_channels.mutators import ChannelMutator

__all__ = ["TaughtSteps"]


class TaughtSteps:
    """Adds the distance from the teacher to the loss of each training step, while there is a teacher.

    Args:
        module: The LightningModule; its ``training_step`` runs once a step, as ever.
        mutator: What was prepared in it.
        distillation: The distance.

    Attributes:
        teacher: The unpruned model; None before the pruning.
    """

    def __init__(self, module: LightningModule, mutator: ChannelMutator, distillation: Distillation) -> None:
        self.teacher: Teacher | None = None
        self._distillation = distillation
        self._watch = CallWatch(module, mutator.model)
        self._stand_in = StepStandIn(module, self)

    def take_off(self) -> None:
        """Give the module its own ``training_step`` back."""
        self._stand_in.take_off()
        self.teacher = None

    def step(self, own: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What the trainer calls."""
        teacher = self.teacher
        if teacher is None:
            return own(*arguments, **keywords)

        def more(loss: Tensor, calls: list[Call], batch: Any) -> Tensor:
            for call in calls:
                loss = loss + self._distillation(call.outputs, teacher.outputs(call), batch)
            return loss

        return with_more_loss(self._watch, own, arguments, keywords, more)
