"""Containers: one side of one module, tiled with mutables, or twice where two decide about each channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from lightning_channels._compiling import compiled_as
from lightning_channels.errors import ChoiceError, ConfigError, PrepareError
from lightning_channels.mutables.base import STALE, BaseMutableChannel
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

Tiling = dict[tuple[int, int], BaseMutableChannel]

_Row = tuple[BaseMutableChannel | int, ...]
"""A tiling as it is held: the mutables in their order, and beside them how many channels none is registered for.

A densely connected net has thousands of tiles. As entries of dicts they would be most of what a prepared model takes.
"""

Run = tuple[int, int | IndexSelection]
"""(first, after the last), or (start of a tile, which of its channels)."""


class MutableChannelContainer:
    """The channels of one side of a module: a tiling of ``range(num_channels)`` with mutables.

    Channels that no mutable is registered for are always active. A second tiling may cross the first: a channel is then
    active where it is in both, as are those of an attention that keeps some heads and some places in each.

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
    __slots__ = ("_crossing", "_row", "_sel", "num_channels")

    def __init__(self, num_channels: int) -> None:
        self.num_channels = positive(num_channels, "num_channels")
        self._row: _Row = ()
        self._crossing: _Row = ()
        self._sel: Selection = None

    @property
    def mutable_channels(self) -> Tiling:
        """What is registered, by (start, end), in order; made at each call."""
        return _tiling(self._row)

    @property
    def crossing_channels(self) -> Tiling:
        """The same of the second tiling."""
        return _tiling(self._crossing)

    @property
    def mutables(self) -> list[BaseMutableChannel]:
        """All that is registered, in either tiling."""
        return [*_mutables(self._row), *_mutables(self._crossing)]

    @property
    def sel(self) -> Selection:
        """The active channels in their simplest form: ``None`` for all, n for the first n, or an index."""
        selection = self._sel
        if selection is STALE:
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

    def register_mutable(
        self, mutable: BaseMutableChannel, start: int = 0, end: int | None = None, crossing: bool = False
    ) -> None:
        """Let ``mutable`` decide about the channels from ``start`` to ``end``.

        Args:
            mutable: As many channels as the range.
            start: First channel of the range.
            end: The channel after its last; by default ``start`` and the mutable's size.
            crossing: Whether in the second tiling, beside what is registered in the first.

        Raises:
            ConfigError: If the range is outside of the side, has another size, or overlaps one of its tiling.
        """
        end = start + mutable.num_channels if end is None else end
        if not 0 <= start < end <= self.num_channels:
            raise ConfigError(f"the range ({start}, {end}) is not inside of (0, {self.num_channels})")
        if end - start != mutable.num_channels:
            raise ConfigError(f"the range ({start}, {end}) has {end - start} channels, unlike {mutable}")
        tiling = self.crossing_channels if crossing else self.mutable_channels
        for (other_start, other_end), other in tiling.items():
            if (start, end) == (other_start, other_end) and mutable is other:
                return
            if start < other_end and other_start < end:
                raise ConfigError(f"the range ({start}, {end}) overlaps ({other_start}, {other_end}) of {other}")
        # a range beside others, and not the first of them: what is attached already stays so
        heard = [] if crossing else [other.root for other in self.mutables]
        if not heard:
            self._detach()
        row = _row_of({**tiling, (start, end): mutable}, self.num_channels)
        if crossing:
            self._crossing = row
        else:
            self._row = row
        if not heard:
            self._attach()
        elif not any(root is mutable.root for root in heard):
            mutable.root._dependents.append(self)
        self._sel = STALE

    def unregister(self, mutable: BaseMutableChannel) -> None:
        """Undo every registration of ``mutable``; its channels are all active from then on."""
        if any(other is mutable for other in self.mutables):
            self._detach()
            self._row = _without(self._row, mutable, self.num_channels)
            self._crossing = _without(self._crossing, mutable, self.num_channels)
            self._attach()

    def clear(self) -> None:
        """Undo every registration."""
        self._detach()
        self._row = self._crossing = ()
        self._sel = None

    def register_concatenation(self, mutables: Sequence[BaseMutableChannel], start: int = 0) -> None:
        """Let several mutables decide, one after the other, as where their channels were concatenated. All or nothing.

        Args:
            mutables: In the order of their channels; derived ones too, such as those of a flatten.
            start: First channel of the first one.

        Raises:
            ConfigError: If there is none, or if one doesn't fit.
        """
        if not mutables:
            raise ConfigError("a concatenation needs at least one mutable")
        before = self._row
        try:
            for mutable in mutables:
                self.register_mutable(mutable, start)
                start += mutable.num_channels
        except ConfigError:
            self._detach()
            self._row = before
            self._attach()
            raise

    @staticmethod
    def register_mutable_channel_to_module(
        module: Any,
        mutable: BaseMutableChannel | Sequence[BaseMutableChannel],
        is_to_output_channel: bool = True,
        start: int = 0,
        end: int = -1,
    ) -> None:
        """Register a mutable to one side of a dynamic op.

        Args:
            module: A dynamic op, such as ``DynamicConv2d``.
            mutable: The mutable, or several whose channels follow one another there (after a concatenation).
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
        if isinstance(mutable, BaseMutableChannel):
            container.register_mutable(mutable, start, None if end == -1 else end)
            return
        size = sum(part.num_channels for part in mutable)
        if end not in (-1, start + size):
            raise ConfigError(f"the range ({start}, {end}) has {end - start} channels; the mutables have {size}")
        container.register_concatenation(mutable, start)

    def _mirrored(self) -> BaseMutableChannel | None:
        """The mutable that this container is, if it is one and nothing else."""
        mutable = None if self._crossing else _only(self._row)
        return mutable if mutable is not None and mutable.root is mutable else None

    def _attach(self) -> None:
        """Join the mutables' lists, on the right one of the two."""
        mirrored = self._mirrored()
        if mirrored is not None:
            # a copied mutable may not have its own state yet
            mirrored.__dict__.setdefault("_mirrors", []).append(self)
        else:
            for root in {id(m.root): m.root for m in self.mutables}.values():
                root.__dict__.setdefault("_dependents", []).append(self)
        self._sel = STALE

    def _detach(self) -> None:
        for mutable in self.mutables:
            for name in ("_mirrors", "_dependents"):
                containers = mutable.root.__dict__.get(name)
                if containers:
                    containers[:] = [other for other in containers if other is not self]

    def _resolve(self) -> Selection:
        selection = self._decided(self._row)
        if self._crossing:
            selection = _crossed(selection, self._decided(self._crossing), self.num_channels)
        if isinstance(selection, IndexSelection) and not len(selection):
            raise ChoiceError(f"none of the {self.num_channels} channels of this side is kept")
        return selection

    def _decided(self, row: _Row) -> Selection:
        """What is active by one of the tilings."""
        mutable = _only(row)
        if mutable is not None:
            return mutable.selection
        return _joined(self._runs(row), self.num_channels)

    def _runs(self, row: _Row) -> list[Run]:
        """The active channels in order, runs that touch merged."""
        runs: list[Run] = []
        for start, end, selection in self._tiles(row):
            if isinstance(selection, IndexSelection):
                runs.append((start, selection))
                continue
            stop = end if selection is None else start + selection
            if runs and runs[-1][1] == start:
                runs[-1] = (runs[-1][0], stop)
            else:
                runs.append((start, stop))
        return runs

    def _tiles(self, row: _Row) -> Iterator[tuple[int, int, Selection]]:
        """All channels as (start, end, selection), the ranges without a mutable included."""
        position = 0
        for tile in row:
            if isinstance(tile, int):
                end, selection = position + tile, None
            else:
                end, selection = position + tile.num_channels, tile.shown
            yield position, end, selection
            position = end
        if not row:
            yield 0, self.num_channels, None

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}(num_channels={self.num_channels}, activated_channels={self.activated_channels})"

    def __getstate__(self) -> tuple[Any, ...]:
        return self.num_channels, list(self.mutable_channels.items()), list(self.crossing_channels.items())

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.num_channels = state[0]
        self._row, self._crossing = (_row_of(dict(tiling), state[0]) for tiling in state[1:])
        self._sel = None
        if self.mutables:
            self._attach()


def _traced_sel(container: MutableChannelContainer) -> Selection:
    """The selection where it is compiled: the same for the compiler at all widths, a full one too."""
    row = container._row
    if container._crossing:
        return container._sel if container._sel is not STALE else container._resolve()
    mutable = _only(row)
    if mutable is not None:
        return mutable.selection
    runs: list[Tensor] = []
    for start, end, selection in container._tiles(row) if row else ():
        if isinstance(selection, IndexSelection):
            return container._resolve()
        runs.append(torch.arange(start, end if selection is None else start + selection, device="cpu"))
    return IndexSelection(torch.cat(runs)) if runs else None


compiled_as(MutableChannelContainer, "sel", _traced_sel)


def _mutables(row: _Row) -> Iterator[BaseMutableChannel]:
    return (tile for tile in row if not isinstance(tile, int))


def _tiling(row: _Row) -> Tiling:
    found: Tiling = {}
    position = 0
    for tile in row:
        size = tile if isinstance(tile, int) else tile.num_channels
        if not isinstance(tile, int):
            found[position, position + size] = tile
        position += size
    return found


def _only(row: _Row) -> BaseMutableChannel | None:
    """The mutable that decides about the whole side; it may have no state yet, while it is copied."""
    tile = row[0] if len(row) == 1 else None
    return None if isinstance(tile, int) else tile


def _row_of(tiling: Tiling, num_channels: int) -> _Row:
    """A tiling as it is held."""
    row: list[BaseMutableChannel | int] = []
    position = 0
    for (start, end), mutable in sorted(tiling.items(), key=lambda entry: entry[0]):
        if position < start:
            row.append(start - position)
        row.append(mutable)
        position = end
    if row and position < num_channels:
        row.append(num_channels - position)
    return tuple(row)


def _without(row: _Row, mutable: BaseMutableChannel, num_channels: int) -> _Row:
    return _row_of({tile: other for tile, other in _tiling(row).items() if other is not mutable}, num_channels)


# A norm and the convolution after it have the same tiling and are read one after the other: they share one index, which
# is then made, and copied to a device, once.
_last: tuple[list[Run], int, Selection] = ([], 0, None)


def _joined(runs: list[Run], num_channels: int) -> Selection:
    """The simplest selection for runs of channels."""
    global _last
    if len(runs) == 1 and runs[0][0] == 0 and isinstance(runs[0][1], int):
        count = runs[0][1]
        return None if count == num_channels else count
    last = _last
    if last[0] != runs or last[1] != num_channels:
        with torch.inference_mode(False):
            last = _last = (runs, num_channels, from_index(_index(runs), num_channels))
    return last[2]


def _crossed(one: Selection, other: Selection, num_channels: int) -> Selection:
    """What is in both."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, int) and isinstance(other, int):
        return min(one, other)
    with torch.inference_mode(False):
        both = as_mask(one, num_channels) & as_mask(other, num_channels)
        return from_index(both.nonzero().flatten(), num_channels)


def _index(runs: list[Run]) -> Tensor:
    pairs = [(first, stop) for first, stop in runs if isinstance(stop, int)]
    if len(pairs) < len(runs):
        return torch.cat(
            [
                torch.arange(first, stop, device="cpu") if isinstance(stop, int) else stop.index + first
                for first, stop in runs
            ]
        )
    # in a few calls, however many runs there are: counting up, and jumping at each start of a run
    sizes = [stop - first for first, stop in pairs]
    jumps = [first - done for (first, _), done in zip(pairs, accumulate(sizes, initial=0), strict=False)]
    steps = torch.tensor([jumps, sizes], device="cpu")
    return torch.arange(sum(sizes), device="cpu") + steps[0].repeat_interleave(steps[1])
