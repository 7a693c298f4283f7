"""Several subnets on one batch: the user's ``training_step`` at the widest, and a loss term for each narrower one.

``training_step`` runs once, since a second time would log wrong numbers and update metrics twice. What it called is
called again at the other widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lightning_channels.callbacks._calls import Call, CallWatch
from lightning_channels.callbacks._step import StepStandIn, with_more_loss
from lightning_channels.distillation import Distillation, detached
from lightning_channels.dynamic_ops.cuts import JointGradients
from lightning_channels.errors import ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices

__all__ = ["Memory", "Passes"]

Memory = Literal["fast", "lean"]


@dataclass(slots=True)
class _Pending:
    """The passes of a batch that are still to come, one by one."""

    calls: list[Call]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    batch: Any


class Passes:
    """Stands in for a LightningModule's ``training_step`` while it is trained.

    Args:
        trainer: Runs the module.
        module: The module.
        mutator: Sets the widths.
        distillation: The loss of a narrow pass.
        memory: ``"fast"`` for one backward pass through the sum of all losses; ``"lean"`` for one after each pass, so
            that only one pass's activations are there at a time.
        mean: Whether losses are averaged, and not summed.
        on_width: Called when the choices of a pass were set.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        mutator: ChannelMutator,
        distillation: Distillation,
        memory: Memory,
        mean: bool,
        on_width: Callable[[], None],
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._mutator = mutator
        self._distillation = distillation
        self._lean = memory == "lean"
        self._mean = mean
        self._on_width = on_width
        self._watch = CallWatch(module, mutator.model)
        self._joint = JointGradients(mutator.model)
        self._choices: list[Choices] = []
        self._pending: _Pending | None = None
        self._pass: Choices | None = None
        self._wrapper = StepStandIn(module, self)

    def begin(self, choices: list[Choices]) -> None:
        """Set the passes of the next step; the first is the widest, and is active already."""
        self._choices, self._pending = choices, None

    def take_off(self) -> None:
        """Give the module its own ``training_step`` back."""
        self._wrapper.take_off()
        self._choices, self._pending, self._pass = [], None, None

    # --- a step ------------------------------------------------------------------------------------------------------

    def step(self, own: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What the trainer calls."""
        if self._pass is not None:
            return self._lean_pass()
        if len(self._choices) < 2:
            return own(*arguments, **keywords)

        def more(loss: Tensor, calls: list[Call], batch: Any) -> Tensor:
            for call in calls:
                call.outputs = detached(call.outputs)
            if self._lean:
                self._check_alone(calls)
                self._pending = _Pending(calls, arguments, keywords, batch)
            else:
                with self._joint:
                    for choices in self._choices[1:]:
                        loss = loss + self._narrow_loss(choices, calls, batch)
                self._mutator.set_choices(self._choices[0])
            return loss / self._divisor

        return with_more_loss(self._watch, own, arguments, keywords, more)

    def after_backward(self) -> None:
        """Run the passes that are left, each with a backward pass of its own."""
        pending = self._pending
        if pending is None or self._pass is not None:
            return
        strategy = self._trainer.strategy
        try:
            for choices in self._choices[1:]:
                self._pass = choices
                loss = strategy.training_step(*pending.arguments, **pending.keywords)
                assert isinstance(loss, Tensor)
                strategy.backward(loss / self._trainer.accumulate_grad_batches, None)
        finally:
            self._pass = self._pending = None
        self._mutator.set_choices(self._choices[0])

    def _lean_pass(self) -> Tensor:
        assert self._pending is not None
        assert self._pass is not None
        return self._narrow_loss(self._pass, self._pending.calls, self._pending.batch) / self._divisor

    def _narrow_loss(self, choices: Choices, calls: list[Call], batch: Any) -> Tensor:
        self._mutator.set_choices(choices)
        self._on_width()
        losses = [self._distillation(call.again(), call.outputs, batch) for call in calls]
        return torch.stack(losses).sum() if len(losses) > 1 else losses[0]

    @property
    def _divisor(self) -> int:
        return len(self._choices) if self._mean else 1

    @staticmethod
    def _check_alone(calls: list[Call]) -> None:
        if any(tensor.grad_fn is not None for call in calls for tensor in call.tensors()):
            raise ConfigError(
                "memory='lean' runs a backward pass for each width, and what the net is called with was computed by "
                "other trained modules, whose history is gone after the first; prune the whole of it, or use 'fast'"
            )
