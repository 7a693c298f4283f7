"""Other choices while a trainer validates, tests or predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from lightning.pytorch import LightningModule, Trainer

from lightning_channels.callbacks._checkpoints import StructureFiles
from lightning_channels.callbacks._choices import Held
from lightning_channels.callbacks._recalibrate import Recalibration
from lightning_channels.callbacks._run import RunHooks
from lightning_channels.callbacks._target import find_target
from lightning_channels.callbacks._widths import SeveralWidths, Widths, choices_of
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices

__all__ = ["EvaluationHooks"]


class EvaluationHooks(RunHooks, ABC):
    """Sets the evaluation's choices when it starts and puts back what was active when it ends.

    Attributes:
        module: Dotted name of what is steered; None for the whole module.
        widths: Name → what is validated besides.
        recalibrate: Number of training batches for the statistics of each width.
    """

    of_a_run: ClassVar[tuple[str, ...]] = ("_stand_ins",)
    _held: Held | None = None
    module: str | None
    widths: Widths
    recalibrate: int
    _width: Choices | None = None
    _stand_ins: Sequence[SeveralWidths | Recalibration] = ()

    @property
    @abstractmethod
    def mutator(self) -> ChannelMutator:
        """The mutator that steers the module."""

    @abstractmethod
    def _evaluation_choices(self) -> Choices | None:
        """What to evaluate; None leaves what is active."""

    def _stand_in(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put what several widths and recalibration need around the evaluation loops."""
        self._give_back()
        validating = [trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop]
        found: list[SeveralWidths | Recalibration] = []
        for loop in (*validating, trainer.test_loop) if self.recalibrate else ():
            target = partial(find_target, pl_module, self.module)
            found.append(Recalibration(loop, trainer, pl_module, target, self.recalibrate))
        for loop in validating if self.widths else ():
            widths = partial(self._validated, self._part(trainer))
            found.append(SeveralWidths(loop, trainer, self._validate_at, self._leave_evaluation, widths))
        self._stand_ins = found

    def _give_back(self) -> None:
        """Take everything off the trainer that stands in for a method of it."""
        for stand_in in reversed(self._stand_ins):
            stand_in.take_off()
        self._stand_ins = ()

    def _let_go(self) -> None:
        super()._let_go()
        self._give_back()

    def _part(self, trainer: Trainer) -> str:
        """What goes before a metric's name: ``"encoder/"`` where several of these callbacks run."""
        alone = len(StructureFiles.callbacks_of(trainer)) == 1
        return "" if alone or self.module is None else f"{self.module}/"

    def _validated(self, part: str) -> tuple[dict[str, Choices], Choices]:
        """The choices of each width, and the ordinary ones."""
        current: Choices = {**self.mutator.current_choices, **self.mutator.kept_channels()}
        ordinary = self._evaluation_choices()
        widths: dict[str, Choices] = {
            part + name: {**current, **choices_of(self.mutator, width)} for name, width in self.widths.items()
        }
        return widths, current if ordinary is None else {**current, **ordinary}

    def _validate_at(self, choices: Choices) -> None:
        """Let the next validation have other choices."""
        self._width = choices

    def _enter_evaluation(self) -> None:
        choices = self._evaluation_choices() if self._width is None else self._width
        if choices is not None:
            held = Held(self.mutator)
            self.mutator.set_choices(choices)
            self._held = held

    def _leave_evaluation(self) -> None:
        held, self._held, self._width = self._held, None, None
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
