"""A criterion with what it may leave out filled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lightning_channels.criteria import build_criterion, scores_of
from lightning_channels.errors import ConfigError

__all__ = ["Scorer"]


def _nothing(*_: Any) -> None:
    pass


class Scorer:
    """Asks a criterion for scores, and for what it may do besides only where it does.

    Args:
        criterion: What a user wrote.
        normalizer: For a criterion that is built from a name or a dict.

    Raises:
        ConfigError: If the criterion can't be built, or is an object already and comes with a normalizer.
    """

    def __init__(self, criterion: Any, normalizer: Any = None) -> None:
        if normalizer is not None:
            if isinstance(criterion, str):
                criterion = {"type": criterion}
            if not isinstance(criterion, Mapping):
                raise ConfigError("normalizer belongs to a criterion given by name; a finished one has its own")
            criterion = {**criterion, "normalizer": normalizer}
        self.criterion: Any = build_criterion(criterion)
        self.collecting = False

    def start(self, model: nn.Module, units: Sequence[Any]) -> None:
        """Let it collect what it needs."""
        self._own("start")(model, list(units))
        self.collecting = True

    def stop(self) -> None:
        """Let it take off its hooks."""
        if self.collecting:
            self.collecting = False
            self._own("stop")()

    def after_backward(self) -> None:
        """Tell it of a backward pass."""
        if self.collecting:
            self._own("after_backward")()

    def renew(self) -> None:
        """Let it begin to collect anew, because the net has changed."""
        self._own("reset")()

    @property
    def ready(self) -> bool:
        """Whether it can give scores."""
        return bool(getattr(self.criterion, "ready", True))

    def scores(self, unit: Any) -> Tensor:
        """A unit's scores, float64 on the CPU.

        Raises:
            ConfigError: If they don't fit the unit or aren't finite.
        """
        return scores_of(self.criterion, unit)

    def state_dict(self) -> dict[str, Any] | None:
        """What it has collected; None if it has nothing to keep."""
        state = self._own("state_dict")()
        return None if state is None else dict(state)

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from what it had collected."""
        if state is not None:
            self._own("load_state_dict")(state)

    def _own(self, name: str) -> Callable[..., Any]:
        return getattr(self.criterion, name, _nothing)
