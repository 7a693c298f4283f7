"""What stands in for the ``run`` of one of the trainer's loops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ["LoopRun"]


class LoopRun(ABC):
    """Replaces a loop's ``run`` from the moment it is made; ``self._run`` is the loop's own.

    Args:
        loop: One of the trainer's loops.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._run = loop.run
        loop.run = self

    def take_off(self) -> None:
        """Give the loop its own method back."""
        if self._loop.__dict__.get("run") is self:
            del self._loop.run

    @abstractmethod
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the loop."""
