"""Other choices while a trainer validates, tests or predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lightning_channels.callbacks._choices import Held
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices

__all__ = ["EvaluationHooks"]


class EvaluationHooks(Callback, ABC):
    """Sets the evaluation's choices when it starts and puts back what was active when it ends."""

    _held: Held | None = None

    @property
    @abstractmethod
    def mutator(self) -> ChannelMutator:
        """The mutator that steers the module."""

    @abstractmethod
    def _evaluation_choices(self) -> Choices | None:
        """What to evaluate; None leaves what is active."""

    def _enter_evaluation(self) -> None:
        choices = self._evaluation_choices()
        if choices is not None:
            held = Held(self.mutator)
            self.mutator.set_choices(choices)
            self._held = held

    def _leave_evaluation(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.put_back()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the choices for evaluation."""
        self._enter_evaluation()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the choices from before back."""
        self._leave_evaluation()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the choices for evaluation."""
        self._enter_evaluation()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the choices from before back."""
        self._leave_evaluation()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the choices for evaluation."""
        self._enter_evaluation()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the choices from before back."""
        self._leave_evaluation()
