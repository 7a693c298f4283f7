"""Mutables that follow another one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_channels.errors import ChoiceError, ConfigError, PrepareError
from lightning_channels.mutables.base import BaseMutableChannel
from lightning_channels.mutables.selection import IndexSelection, Selection, as_mask, from_index

__all__ = ["DerivedMutableChannel"]


class DerivedMutableChannel(BaseMutableChannel):
    """A side whose position p is active exactly when channel ``positions[p]`` of the source is.

    Args:
        source: The mutable that decides.
        positions: For each position of this side, the source's channel.

    Raises:
        ConfigError: If ``positions`` is empty or names a channel that the source doesn't have.

    Example:
        >>> from lightning_channels.mutables import SquentialMutableChannel
        >>> source = SquentialMutableChannel(4)
        >>> flattened = source.expand_mutable_channel(49)
        >>> source.current_choice = 3
        >>> flattened.activated_channels
        147
    """

    def __init__(self, source: BaseMutableChannel, positions: Tensor | Sequence[int], name: str = "") -> None:
        with torch.inference_mode(False):
            shown = torch.as_tensor(positions, dtype=torch.long, device="cpu").clone()
            if shown.dim() != 1 or not shown.numel():
                raise ConfigError(f"positions must be a list of channels that is not empty, got {tuple(shown.shape)}")
            if int(shown.min()) < 0 or int(shown.max()) >= source.num_channels:
                raise ConfigError(f"positions must lie in 0 to {source.num_channels - 1}, the channels of {source}")
            if isinstance(source, DerivedMutableChannel):  # one level is enough: whoever changes is the root
                shown = source.positions[shown]
        super().__init__(shown.numel(), name or source.name)
        self.source = source.root
        self.positions: Tensor = shown
        self._resolved: tuple[Selection, Selection] = (None, None)
        self._ratio = self._regular_ratio()

    def _regular_ratio(self) -> int | None:
        """k, where each channel of the source appears k times in a row: a prefix then stays a prefix."""
        ratio, rest = divmod(self.num_channels, self.source.num_channels)
        if rest:
            return None
        regular = torch.arange(self.source.num_channels, device="cpu").repeat_interleave(ratio)
        return ratio if torch.equal(self.positions, regular) else None

    @property
    def expand_ratio(self) -> int | None:
        """How often each channel of the source stands here in a row; ``None`` where they stand in another order."""
        return self._ratio

    @property
    def root(self) -> BaseMutableChannel:
        """The mutable whose choice decides."""
        return self.source

    @property
    def selection(self) -> Selection:
        """The active positions in their simplest form.

        Raises:
            ChoiceError: If none is active.
        """
        shown = self.shown
        if isinstance(shown, IndexSelection) and not len(shown):
            raise ChoiceError(f"{self.source} keeps none of the channels that this side of it shows")
        return shown

    @property
    def shown(self) -> Selection:
        """Like :attr:`selection`, but nothing is allowed: other mutables can have channels on the same side."""
        given = self.source.selection
        if given is None:
            # a channel of the source that no position shows changes nothing here
            return None
        if isinstance(given, int) and self._ratio is not None:
            return given * self._ratio
        if self._resolved[0] is None or self._resolved[0] != given:
            with torch.inference_mode(False):
                mask = as_mask(given, self.source.num_channels)[self.positions]
                self._resolved = (given, from_index(mask.nonzero().flatten(), self.num_channels))
        return self._resolved[1]

    def keep(self, channels: int | Sequence[int] | Tensor | IndexSelection) -> None:
        """Refused: the source decides.

        Raises:
            PrepareError: Always.
        """
        raise PrepareError(f"{self} follows {self.source}; change that one")
