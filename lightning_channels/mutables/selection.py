"""Which channels of a side are active, in the form that is cheapest to apply.

A selection is ``None`` (all), an ``int`` (the first n) or an :class:`IndexSelection`. Every function here returns the
simplest form that says it, so that "is it full?" and "is it a prefix?" are one comparison for whoever applies it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutables.runs import Runs, runs_of

__all__ = ["IndexSelection", "Selection", "as_index", "as_mask", "from_index", "normalise", "positive", "size_of"]

# an index outlives the block that it was made in: made under inference mode it could never be saved for backward
_durable = torch.inference_mode(False)


class IndexSelection:
    """An arbitrary set of channels.

    Args:
        index: The channels, ascending and without duplicates, as a LongTensor on the CPU.

    Attributes:
        layouts: What was found out for tensors of some layout, kept as long as the channels are.
    """

    __slots__ = ("_by_device", "_runs", "_within", "index", "layouts")

    def __init__(self, index: Tensor) -> None:
        self.index = index
        self._by_device: dict[torch.device, Tensor] = {}
        self._within: dict[tuple[int, int], Selection] = {}
        self._runs: tuple[Runs, ...] | None = None
        self.layouts: dict[Any, Any] = {}

    def __len__(self) -> int:
        return self.index.numel()

    def __repr__(self) -> str:
        return f"IndexSelection({self.index.tolist()})"

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, IndexSelection) and torch.equal(self.index, other.index))

    def __hash__(self) -> int:
        return hash(tuple(self.index.tolist()))

    def __reduce__(self) -> tuple[type[IndexSelection], tuple[Tensor]]:
        return IndexSelection, (self.index,)  # the copies on devices are made again where they are needed

    @property
    def runs(self) -> tuple[Runs, ...]:
        """The channels as few runs; none where there are too many. Looked for once."""
        if self._runs is None:
            self._runs = runs_of(self.index)
        return self._runs

    def on(self, device: torch.device) -> Tensor:
        """The index on ``device``; copied there once."""
        if device.type == "cpu":
            return self.index
        index = self._by_device.get(device)
        if index is None:
            with torch.inference_mode(False):
                index = self.index.to(device)
            if type(index) is Tensor:  # a fake tensor belongs to the trace that made it
                self._by_device[device] = index
        return index

    def within_group(self, num_channels: int, groups: int) -> Selection:
        """The selection inside one group, which must be the same in every group.

        Args:
            num_channels: Size of the side.
            groups: Into how many equal groups its channels are split.

        Raises:
            ChoiceError: If two groups keep different channels.
        """
        key = (num_channels, groups)
        if key not in self._within:
            with torch.inference_mode(False):
                masks = as_mask(self, num_channels).view(groups, -1)
                if not bool((masks == masks[0]).all()):
                    raise ChoiceError(
                        f"{len(self)} of {num_channels} channels are kept, but not the same ones in each of the"
                        f" {groups} groups; keep the same positions in every group"
                    )
                self._within[key] = from_index(masks[0].nonzero().flatten(), masks.shape[1])
        return self._within[key]


Selection: TypeAlias = IndexSelection | int | None


def positive(value: object, what: str) -> int:
    """``value``, checked to be a whole number of at least 1.

    Raises:
        ConfigError: If it isn't.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{what} must be a whole number of at least 1, got {value!r}")
    return value


def size_of(selection: Selection, num_channels: int) -> int:
    """How many of ``num_channels`` are active."""
    if selection is None:
        return num_channels
    return selection if isinstance(selection, int) else len(selection)


@_durable
def as_index(selection: Selection, num_channels: int) -> Tensor:
    """The active channels, ascending, as a LongTensor on the CPU."""
    if isinstance(selection, IndexSelection):
        return selection.index
    return torch.arange(size_of(selection, num_channels), device="cpu")


@_durable
def as_mask(selection: Selection, num_channels: int) -> Tensor:
    """The active channels as a bool tensor of ``num_channels`` entries on the CPU."""
    mask = torch.zeros(num_channels, dtype=torch.bool, device="cpu")
    mask[as_index(selection, num_channels)] = True
    return mask


def from_index(index: Tensor, num_channels: int) -> Selection:
    """The simplest selection for an ascending index without duplicates."""
    count = index.numel()
    if count == num_channels:
        return None
    if count and int(index[-1]) == count - 1:
        return count
    return IndexSelection(index)


def normalise(channels: int | Sequence[int] | Tensor | IndexSelection, num_channels: int, what: str) -> Selection:
    """Check what a user asks to keep, and bring it to its simplest form.

    Args:
        channels: The first n, or the channels by index, or a bool mask, or what came out of this before.
        num_channels: How many there are.
        what: Whose channels, for messages.

    Raises:
        ChoiceError: If nothing would be kept, a channel is out of range or named twice, or the type is another one.
    """
    if isinstance(channels, IndexSelection) and int(channels.index[-1]) < num_channels:
        return channels
    if isinstance(channels, IndexSelection):
        channels = channels.index
    if isinstance(channels, Tensor) and channels.dim() > 0:
        return _from_tensor(channels, num_channels, what)
    if isinstance(channels, Sequence):
        return _from_tensor(_tensor_of(channels, what), num_channels, what)
    count = _integer(channels, what)
    if not 1 <= count <= num_channels:
        raise ChoiceError(f"{what} cannot keep {count} channels; allowed are 1 to {num_channels}")
    return None if count == num_channels else count


def _integer(value: object, what: str) -> int:
    """``value`` as an int, where it is a whole number by type (numpy's and 0-dim tensors included)."""
    if not isinstance(value, bool) and not (isinstance(value, Tensor) and value.dtype == torch.bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise ChoiceError(f"{what} keeps a number of channels, a list of channels or a bool mask; got {value!r}")


@_durable
def _tensor_of(channels: Sequence[int], what: str) -> Tensor:
    kinds = set(map(type, channels))
    if kinds == {bool}:
        return torch.tensor(list(channels), dtype=torch.bool, device="cpu")
    numbers = list(channels) if kinds == {int} else [_integer(channel, what) for channel in channels]
    try:
        return torch.tensor(numbers, dtype=torch.long, device="cpu")
    except (OverflowError, RuntimeError, ValueError) as error:
        raise ChoiceError(f"{what} is asked to keep a channel whose number has more than 64 bits") from error


@_durable
def _from_tensor(channels: Tensor, num_channels: int, what: str) -> Selection:
    if channels.dim() != 1 or channels.is_floating_point() or channels.is_complex():
        raise ChoiceError(
            f"{what} keeps a 1-D tensor of whole numbers or bools; got {tuple(channels.shape)} of {channels.dtype}"
        )
    if channels.dtype == torch.bool:
        if channels.numel() != num_channels:
            raise ChoiceError(f"{what} has {num_channels} channels; the mask has {channels.numel()} entries")
        channels = channels.nonzero().flatten()
    index = channels.detach().to("cpu", torch.long).sort().values
    if not index.numel():
        raise ChoiceError(f"{what} must keep at least one of its {num_channels} channels; got none")
    if int(index[0]) < 0 or int(index[-1]) >= num_channels:
        wrong = int(index[0]) if int(index[0]) < 0 else int(index[-1])
        raise ChoiceError(f"{what} has no channel {wrong}; allowed are 0 to {num_channels - 1}")
    same = index[1:] == index[:-1]
    if bool(same.any()):
        raise ChoiceError(f"{what} is asked to keep channel {int(index[1:][same][0])} twice")
    return from_index(index, num_channels)
