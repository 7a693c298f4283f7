"""What stands in for a LightningModule's ``training_step``, and what its arguments and its result are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Protocol

from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_channels.callbacks._errors import as_misconfiguration

__all__ = ["Step", "StepStandIn", "batch_of", "loss_of", "with_loss"]


class Step(Protocol):
    """Runs a training step."""

    def step(self, own: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What the trainer calls.

        Args:
            own: The module's ``training_step``.
            arguments: What the trainer passes.
            keywords: What it passes by name.
        """


class StepStandIn:
    """``training_step`` on the instance, from the moment it is made.

    Args:
        module: The module.
        runner: Runs its steps.
    """

    def __init__(self, module: LightningModule, runner: Step) -> None:
        self._module = module
        self._runner = runner
        self._previous = module.__dict__.get("training_step")
        self.__wrapped__ = module.training_step  # what Lightning's is_overridden looks at
        module.__dict__["training_step"] = self

    def take_off(self) -> None:
        """Give the module its own ``training_step`` back."""
        attributes = self._module.__dict__
        if attributes.get("training_step") is self:
            del attributes["training_step"]
            if self._previous is not None:
                attributes["training_step"] = self._previous

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with as_misconfiguration("ChannelPruning"):
            return self._runner.step(self.__wrapped__, args, kwargs)

    # a copy of the module (an averaged one, say) isn't trained by the callback: it gets the plain method

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self._previous is not None:
            return copy.deepcopy(self._previous, memo)
        return MethodType(type(self._module).training_step, memo.get(id(self._module), self._module))

    def __reduce__(self) -> Any:
        return getattr, (self._module, "training_step")  # as methods are pickled; there it finds the class's own


def batch_of(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """The batch among the arguments of a step."""
    return arguments[0] if arguments else next(iter(keywords.values()), None)


def loss_of(result: Any) -> Tensor | None:
    """The loss in a step's result; None where the step is skipped, or in error."""
    loss = result.get("loss") if isinstance(result, Mapping) else result
    return loss if isinstance(loss, Tensor) else None


def with_loss(result: Any, loss: Tensor) -> Any:
    """The same result with another loss."""
    return {**result, "loss": loss} if isinstance(result, Mapping) else loss
