"""A mutable that knows which of several candidates its channels stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_channels.mutables.base import SquentialMutableChannel
from lightning_channels.mutables.selection import IndexSelection, Selection, normalise

__all__ = ["SlimmableMutableChannel"]


class SlimmableMutableChannel(SquentialMutableChannel):
    """A mutable whose channels are those of a candidate, by its number.

    Two candidates can be equally wide, so the width doesn't tell which of them is active; switchable norms ask here.
    Channels that are kept by hand belong to no candidate.

    Example:
        >>> mutable = SlimmableMutableChannel(8)
        >>> mutable.take(1, 4)
        >>> mutable, mutable.candidate
        (SlimmableMutableChannel(num_channels=8, activated_channels=4), 1)
        >>> mutable.keep(4)
        >>> print(mutable.candidate)
        None
    """

    def take(self, candidate: int, channels: int | Sequence[int] | Tensor | IndexSelection) -> None:
        """Activate a candidate.

        Args:
            candidate: Its number, counted from 0.
            channels: Its channels: n for the first n, or the channels by index, or a bool mask.

        Raises:
            ChoiceError: If nothing would be kept, or a channel is out of range or named twice.
        """
        self._switch(normalise(channels, self.num_channels, self.name or type(self).__name__), candidate)

    def snapshot(self) -> Any:
        """The active channels and the candidate."""
        return self._selection, self.candidate

    def put_back(self, snapshot: Any) -> None:
        """Go back to a snapshot of this mutable."""
        self._switch(*snapshot)

    def _set(self, selection: Selection) -> None:
        self._switch(selection, None)

    def _switch(self, selection: Selection, candidate: int | None) -> None:
        if candidate != self.candidate:
            self._note()
            self.candidate = candidate
        super()._set(selection)
