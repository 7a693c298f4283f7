"""Mutables: the number, or set, of active channels that everything depending on it shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from lightning_channels._compiling import compiled_as, width_symbol
from lightning_channels.errors import ChoiceError
from lightning_channels.mutables.selection import (
    IndexSelection,
    Selection,
    as_index,
    as_mask,
    normalise,
    positive,
    size_of,
)

if TYPE_CHECKING:
    from lightning_channels.mutables.container import MutableChannelContainer
    from lightning_channels.mutables.derived import DerivedMutableChannel

__all__ = [
    "STALE",
    "BaseMutableChannel",
    "SequentialMutableChannel",
    "SimpleMutableChannel",
    "SquentialMutableChannel",
    "batch_update",
]

STALE: Final[Any] = object()
"""In the place of a container's selection, until it is computed."""

# setting what is active already changes nothing; a number of compiled code is not compared, which would fix it
_COMPARED = (int, IndexSelection)

# (mutable, its snapshot before), one entry a change, while a batch_update block is open
_journal: list[tuple[BaseMutableChannel, Any]] | None = None


@contextmanager
def batch_update() -> Iterator[None]:
    """Change several mutables together, or none: if the block raises, each is put back to where it was.

    Containers that several mutables tile are not recomputed at each change: they go stale and are resolved when they
    are next read, so setting all mutables of a model is linear in the number of registrations.

    Example:
        >>> first, second = SquentialMutableChannel(8), SquentialMutableChannel(4)
        >>> with batch_update():
        ...     first.current_choice = 2
        ...     second.current_choice = 1
        >>> first.activated_channels, second.activated_channels
        (2, 1)
    """
    global _journal
    outer, _journal = _journal, []
    try:
        yield
    except BaseException:
        changes, _journal = _journal, None
        for mutable, before in reversed(changes):
            mutable.put_back(before)
        raise
    else:
        if outer is not None:
            outer.extend(_journal)
    finally:
        _journal = outer


class BaseMutableChannel:
    """The active channels of one dependent set.

    Args:
        num_channels: How many channels there are.
        name: A name for messages.

    Raises:
        ConfigError: If ``num_channels`` is no positive whole number.
    """

    owner: Any = None
    """The unit that this mutable belongs to, if there is one."""

    candidate: int | None = None
    """Which of its unit's candidates is active, for a mutable that knows; see :class:`SlimmableMutableChannel`."""

    def __init__(self, num_channels: int, name: str = "") -> None:
        self.num_channels = positive(num_channels, "num_channels")
        self.name = name
        self._selection: Selection = None
        self._symbol = _symbol_of(None, self.num_channels)
        # whom to tell: containers that are this mutable and nothing else, and containers that compute something from it
        self._mirrors: list[MutableChannelContainer] = []
        self._dependents: list[MutableChannelContainer] = []

    @property
    def root(self) -> BaseMutableChannel:
        """The mutable whose choice decides: itself, or a derived mutable's source."""
        return self

    @property
    def selection(self) -> Selection:
        """The active channels in their simplest form: ``None`` for all, n for the first n, or an index."""
        return self._selection

    @property
    def shown(self) -> Selection:
        """What a container with other mutables beside this one sees: for a derived mutable that can be nothing."""
        return self.selection

    @property
    def activated_channels(self) -> int:
        """How many channels are active."""
        return size_of(self.selection, self.num_channels)

    @property
    def current_mask(self) -> Tensor:
        """The active channels as a bool tensor on the CPU."""
        return as_mask(self.selection, self.num_channels)

    @property
    def kept(self) -> Tensor:
        """The active channels, ascending, as a LongTensor on the CPU."""
        return as_index(self.selection, self.num_channels)

    @property
    def current_choice(self) -> Any:
        """What is active, as this kind of mutable says it."""
        return self.activated_channels

    @current_choice.setter
    def current_choice(self, choice: Any) -> None:
        self.keep(choice)

    def keep(self, channels: int | Sequence[int] | Tensor | IndexSelection) -> None:
        """Set which channels are active.

        Args:
            channels: n for the first n, or the channels by index, or a bool mask.

        Raises:
            ChoiceError: If nothing would be kept, or a channel is out of range or named twice.
        """
        if type(channels) is int and 0 < channels < self.num_channels:
            self._set(channels)
        else:
            self._set(normalise(channels, self.num_channels, self.name or type(self).__name__))

    def _set(self, selection: Selection) -> None:
        if selection is self._selection or (type(selection) in _COMPARED and selection == self._selection):
            return
        self._note()
        self._selection = selection
        self._symbol = width_symbol(selection) if type(selection) is int else _symbol_of(selection, self.num_channels)
        for container in self._mirrors:
            container._sel = selection
        for container in self._dependents:
            container._sel = STALE

    def _note(self) -> None:
        """Called before a change, so that a batch_update block can undo it."""
        if _journal is not None:
            _journal.append((self, self.snapshot()))

    def snapshot(self) -> Any:
        """All that a choice sets, for :meth:`put_back`."""
        return self._selection

    def put_back(self, snapshot: Any) -> None:
        """Go back to a snapshot of this mutable."""
        self._set(snapshot)

    def expand_mutable_channel(self, expand_ratio: int) -> DerivedMutableChannel:
        """The mutable of a side on which each of these channels appears ``expand_ratio`` times in a row."""
        from lightning_channels.mutables.derived import DerivedMutableChannel

        positive(expand_ratio, "expand_ratio")
        with torch.inference_mode(False):
            positions = torch.arange(self.num_channels, device="cpu").repeat_interleave(expand_ratio)
        return DerivedMutableChannel(self, positions)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(num_channels={self.num_channels}, activated_channels={self.activated_channels})"

    # A copy leaves the containers out; they join again when they are copied themselves. Through them a copy would
    # recurse from module to module along the whole model, and pass Python's recursion limit on a deep one.
    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_mirrors", "_dependents", "_symbol")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._symbol = _symbol_of(self._selection, self.num_channels)
        self.__dict__.setdefault("_mirrors", [])
        self.__dict__.setdefault("_dependents", [])


def _symbol_of(selection: Selection, num_channels: int) -> int | None:
    """The width as compiled code reads it; None for an index, which it reads as it is."""
    if selection is None:
        return width_symbol(num_channels)
    return width_symbol(selection) if isinstance(selection, int) else None


def _traced_selection(mutable: BaseMutableChannel) -> Selection:
    symbol = mutable._symbol
    return mutable._selection if symbol is None else symbol


compiled_as(BaseMutableChannel, "selection", _traced_selection)


class SquentialMutableChannel(BaseMutableChannel):
    """A mutable whose choice is a number n: the first n channels are active.

    The spelling is the one in use for this class; :data:`SequentialMutableChannel` is the same class.

    Example:
        >>> mutable = SquentialMutableChannel(8)
        >>> mutable.current_choice = 2
        >>> mutable
        SquentialMutableChannel(num_channels=8, activated_channels=2)
    """

    @property
    def current_choice(self) -> int:
        """How many channels are active."""
        return self.activated_channels

    @current_choice.setter
    def current_choice(self, choice: Any) -> None:
        if type(choice) is int and 0 < choice < self.num_channels:
            self._set(choice)
        elif isinstance(choice, Sequence) or (isinstance(choice, Tensor) and choice.dim()):
            what = self.name or type(self).__name__
            raise ChoiceError(f"the choice of {what} is a number of channels, got {choice!r}; keep() takes which ones")
        else:
            self.keep(choice)


class SimpleMutableChannel(BaseMutableChannel):
    """A mutable whose choice is a mask.

    Example:
        >>> mutable = SimpleMutableChannel(4)
        >>> mutable.current_choice = [True, False, False, True]
        >>> mutable.kept.tolist()
        [0, 3]
    """

    @property
    def current_choice(self) -> Tensor:
        """The active channels as a bool tensor on the CPU."""
        return self.current_mask

    @current_choice.setter
    def current_choice(self, choice: int | Sequence[int] | Tensor) -> None:
        self.keep(choice)


SequentialMutableChannel = SquentialMutableChannel
