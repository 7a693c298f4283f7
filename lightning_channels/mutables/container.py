"""Containers: one side of one module, tiled with mutables."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.mutables.base import BaseMutableChannel
from lightning_channels.mutables.selection import (
    IndexSelection,
    Selection,
    as_index,
    as_mask,
    from_index,
    positive,
    size_of,
)

__all__ = ["MutableChannelContainer"]

_STALE: Final[Any] = object()


class MutableChannelContainer:
    """The channels of one side of a module: a tiling of ``range(num_channels)`` with mutables.

    Channels that no mutable is registered for are always active.

    Args:
        num_channels: Size of the side.

    Example:
        >>> from lightning_channels.mutables import SquentialMutableChannel
        >>> container = MutableChannelContainer(8)
        >>> mutable = SquentialMutableChannel(4)
        >>> container.register_mutable(mutable, start=4)
        >>> mutable.current_choice = 1
        >>> container
        MutableChannelContainer(num_channels=8, activated_channels=5)
    """

    # The getters of a dynamic op look at _sel on every access. A mutable writes it where the container mirrors it, and
    # marks it stale where it must be computed, which then happens at the next read.
    __slots__ = ("_sel", "mutable_channels", "num_channels")

    def __init__(self, num_channels: int) -> None:
        self.num_channels = positive(num_channels, "num_channels")
        self.mutable_channels: dict[tuple[int, int], BaseMutableChannel] = {}
        self._sel: Selection = None

    @property
    def sel(self) -> Selection:
        """The active channels in their simplest form: ``None`` for all, n for the first n, or an index."""
        selection = self._sel
        if selection is _STALE:
            selection = self._sel = self._resolve()
        return selection

    @property
    def activated_channels(self) -> int:
        """How many channels are active."""
        return size_of(self.sel, self.num_channels)

    @property
    def current_mask(self) -> Tensor:
        """The active channels as a bool tensor on the CPU."""
        return as_mask(self.sel, self.num_channels)

    @property
    def kept(self) -> Tensor:
        """The active channels, ascending, as a LongTensor on the CPU."""
        return as_index(self.sel, self.num_channels)

    def register_mutable(self, mutable: BaseMutableChannel, start: int = 0, end: int | None = None) -> None:
        """Let ``mutable`` decide about the channels from ``start`` to ``end``.

        Args:
            mutable: As many channels as the range.
            start: First channel of the range.
            end: The channel after its last; by default ``start`` and the mutable's size.

        Raises:
            ConfigError: If the range is outside of the side, has another size, or overlaps one that is registered.
        """
        end = start + mutable.num_channels if end is None else end
        if not 0 <= start < end <= self.num_channels:
            raise ConfigError(f"the range ({start}, {end}) is not inside of (0, {self.num_channels})")
        if end - start != mutable.num_channels:
            raise ConfigError(f"the range ({start}, {end}) has {end - start} channels, unlike {mutable}")
        for (other_start, other_end), other in self.mutable_channels.items():
            if (start, end) == (other_start, other_end) and mutable is other:
                return
            if start < other_end and other_start < end:
                raise ConfigError(f"the range ({start}, {end}) overlaps ({other_start}, {other_end}) of {other}")
        self.mutable_channels[start, end] = mutable
        self.mutable_channels = dict(sorted(self.mutable_channels.items()))
        self._attach()

    def unregister(self, mutable: BaseMutableChannel) -> None:
        """Undo every registration of ``mutable``; its channels are all active from then on."""
        kept = {tile: other for tile, other in self.mutable_channels.items() if other is not mutable}
        if len(kept) != len(self.mutable_channels):
            self._detach()
            self.mutable_channels = kept
            self._attach()

    def clear(self) -> None:
        """Undo every registration."""
        self._detach()
        self.mutable_channels = {}
        self._sel = None

    @staticmethod
    def register_mutable_channel_to_module(
        module: Any,
        mutable: BaseMutableChannel,
        is_to_output_channel: bool = True,
        start: int = 0,
        end: int = -1,
    ) -> None:
        """Register a mutable to one side of a dynamic op.

        Args:
            module: A dynamic op, such as ``DynamicConv2d``.
            mutable: The mutable.
            is_to_output_channel: Whether it decides about the output's channels or the input's.
            start: First channel of the range.
            end: The channel after its last; -1 for ``start`` and the mutable's size.

        Raises:
            PrepareError: If ``module`` is no dynamic op.
            ConfigError: If the range doesn't fit.
        """
        find = getattr(module, "channel_container", None)
        if find is None:
            raise PrepareError(f"{type(module).__name__} is no dynamic op; convert it with make_dynamic first")
        container: MutableChannelContainer = find(is_to_output_channel)
        container.register_mutable(mutable, start, None if end == -1 else end)

    def _mirrored(self) -> BaseMutableChannel | None:
        """The mutable that this container is, if it is one and nothing else."""
        mutable = self.mutable_channels.get((0, self.num_channels))
        return mutable if mutable is not None and mutable.root is mutable else None

    def _attach(self) -> None:
        """Join the mutables' lists, on the right one of the two."""
        self._detach()
        mirrored = self._mirrored()
        if mirrored is not None:
            # a copied mutable may not have its own state yet
            mirrored.__dict__.setdefault("_mirrors", []).append(self)
        else:
            for root in {id(m.root): m.root for m in self.mutable_channels.values()}.values():
                root.__dict__.setdefault("_dependents", []).append(self)
        self._sel = _STALE

    def _detach(self) -> None:
        for mutable in self.mutable_channels.values():
            for name in ("_mirrors", "_dependents"):
                containers = mutable.root.__dict__.get(name)
                if containers:
                    containers[:] = [other for other in containers if other is not self]

    def _invalidate(self) -> None:
        self._sel = _STALE

    def _resolve(self) -> Selection:
        if len(self.mutable_channels) == 1:
            ((tile, mutable),) = self.mutable_channels.items()
            if tile == (0, self.num_channels):
                return mutable.selection
        runs = self._runs()
        if len(runs) == 1 and isinstance(runs[0], tuple) and runs[0][0] == 0:
            count = runs[0][1]
            return None if count == self.num_channels else count
        with torch.inference_mode(False):
            pieces = [run if isinstance(run, Tensor) else torch.arange(*run, device="cpu") for run in runs]
            return from_index(torch.cat(pieces), self.num_channels)

    def _runs(self) -> list[tuple[int, int] | Tensor]:
        """The active channels as (first, after the last), merged where they touch, and as indices where need be."""
        runs: list[tuple[int, int] | Tensor] = []
        for start, end, selection in self._tiles():
            if isinstance(selection, IndexSelection):
                runs.append(selection.index + start)
                continue
            stop = end if selection is None else start + selection
            last = runs[-1] if runs else None
            if isinstance(last, tuple) and last[1] == start:
                runs[-1] = (last[0], stop)
            else:
                runs.append((start, stop))
        return runs

    def _tiles(self) -> list[tuple[int, int, Selection]]:
        """All channels as (start, end, selection), the ranges without a mutable included."""
        tiles: list[tuple[int, int, Selection]] = []
        position = 0
        for (start, end), mutable in self.mutable_channels.items():
            if position < start:
                tiles.append((position, start, None))
            tiles.append((start, end, mutable.selection))
            position = end
        if position < self.num_channels:
            tiles.append((position, self.num_channels, None))
        return tiles

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(num_channels={self.num_channels}, activated_channels={self.activated_channels})"

    def __getstate__(self) -> tuple[int, list[tuple[tuple[int, int], BaseMutableChannel]]]:
        return self.num_channels, list(self.mutable_channels.items())

    def __setstate__(self, state: tuple[int, list[tuple[tuple[int, int], BaseMutableChannel]]]) -> None:
        self.num_channels = state[0]
        self.mutable_channels = dict(state[1])
        self._sel = None
        if self.mutable_channels:
            self._attach()
