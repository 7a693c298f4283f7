"""What stands in for a LightningModule's ``training_step``, and what its arguments and its result are."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Protocol

from lightning.pytorch import LightningModule
from torch import Tensor

from lightning_channels.callbacks._calls import Call, CallWatch
from lightning_channels.callbacks._errors import as_misconfiguration

__all__ = ["Step", "StepStandIn", "with_more_loss"]


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


def with_more_loss(
    watch: CallWatch,
    own: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    more: Callable[[Tensor, list[Call], Any], Tensor],
) -> Any:
    """Run a step, and return its result with another loss; a result without one, of a step that is skipped, as it is.

    Args:
        watch: Of the step's module.
        own: The module's ``training_step``.
        arguments: What the trainer passes.
        keywords: What it passes by name.
        more: The step's own loss, what it called, the batch → the loss.

    Raises:
        ConfigError: If nothing was called that can be narrow, or if it can't be called again.
    """
    with watch.watching() as calls:
        result = own(*arguments, **keywords)
    loss = result.get("loss") if isinstance(result, Mapping) else result
    if not isinstance(loss, Tensor):
        return result
    batch = arguments[0] if arguments else next(iter(keywords.values()), None)
    loss = more(loss, calls, batch)
    return {**result, "loss": loss} if isinstance(result, Mapping) else loss
