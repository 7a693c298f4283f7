"""Loops that the trainer runs without its callbacks, as its tuner does to find a learning rate or a batch size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.memory import is_oom_error

from lightning_channels.callbacks._choices import Held
from lightning_channels.callbacks._loop_run import LoopRun
from lightning_channels.callbacks._run import RunHooks
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices

__all__ = ["TuningHooks"]


class TuningHooks(RunHooks, ABC):
    """Sets the choices of loops that are run without the callback, which would go through whatever was active last."""

    of_a_run: ClassVar[tuple[str, ...]] = ("_tuned", "_before_tuning")
    _tuned: Sequence[_Unaccompanied] = ()
    _before_tuning: Held | None = None

    @property
    @abstractmethod
    def mutator(self) -> ChannelMutator:
        """The mutator that steers the module."""

    @abstractmethod
    def _resting(self) -> Choices:
        """What is trained without the callback."""

    @abstractmethod
    def _evaluation_choices(self) -> Choices | None:
        """What is evaluated."""

    @abstractmethod
    def _begin_passes(self, drawn: list[Choices]) -> None:
        """Set the passes of the next training steps."""

    def _watch_loops(self, trainer: Trainer) -> None:
        self._leave_loops()
        evaluating = (trainer.validate_loop, trainer.test_loop, trainer.predict_loop)
        self._tuned = [
            _Unaccompanied(trainer.fit_loop, trainer, self, self._resting),
            *(_Unaccompanied(loop, trainer, self, self._evaluation_choices) for loop in evaluating),
        ]

    def _leave_loops(self) -> None:
        for stand_in in self._tuned:
            stand_in.take_off()
        self._tuned = ()

    def _let_go(self) -> None:
        super()._let_go()
        self._leave_loops()

    def _enter_tuning(self, choices: Choices | None) -> None:
        self._before_tuning = Held(self.mutator)
        if choices is not None:
            self.mutator.set_choices(choices)
        self._begin_passes([])

    def _leave_tuning(self) -> None:
        held, self._before_tuning = self._before_tuning, None
        if held is not None:
            held.put_back()


class _Unaccompanied(LoopRun):
    """Stands in for a loop's ``run``.

    Args:
        loop: One of the trainer's loops.
        trainer: The trainer.
        callback: The callback that may be missing.
        choices: Says what to run it with then.
    """

    def __init__(
        self, loop: Any, trainer: Trainer, callback: TuningHooks, choices: Callable[[], Choices | None]
    ) -> None:
        super().__init__(loop)
        self._trainer = trainer
        self._callback = callback
        self._choices = choices

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the loop."""
        callbacks: list[Callback] = self._trainer.callbacks  # type: ignore[attr-defined]
        if self._callback in callbacks:
            return self._run(*args, **kwargs)
        self._callback._enter_tuning(self._choices())
        try:
            return self._run(*args, **kwargs)
        except BaseException as error:
            if not is_oom_error(error):  # after which the tuner goes on with smaller batches
                self._callback.on_exception(self._trainer, self._trainer.lightning_module, error)
            raise
        finally:
            self._callback._leave_tuning()
