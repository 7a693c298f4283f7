"""The parameters that hold a unit's channels, as one row of numbers for each channel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from lightning_channels._modules import is_sharded, module_at
from lightning_channels.dynamic_ops.spec import layout, spec_of
from lightning_channels.errors import PrepareError
from lightning_channels.units import Channel, MutableChannelUnit
from lightning_channels.units.attach import side_key

__all__ = ["KINDS", "GroupTensor", "Kind", "group_tensors", "owners"]

Kind: TypeAlias = Literal["outputs", "inputs", "norms", "biases"]

KINDS: tuple[Kind, ...] = ("outputs", "inputs", "norms", "biases")


@dataclass(frozen=True, eq=False, slots=True)
class GroupTensor:
    """A parameter that holds a unit's channels along one of its dims.

    Attributes:
        name: Dotted name of the parameter.
        parameter: At full size, whatever is active.
        dim: Where the channels are.
        groups: 1, or the number of groups of a convolution whose dim holds the channels of a single group.
        kind: ``"outputs"`` of a weight that gives the channels, ``"inputs"`` of one that reads them, ``"norms"`` for
            the scales of norms and the like, ``"biases"``.
        num_channels: Of the unit.
        runs: Where on the side the channels are.
    """

    name: str
    parameter: Tensor
    dim: int
    groups: int
    kind: Kind
    num_channels: int
    runs: tuple[Channel, ...]

    def values(self, of: Tensor | None = None) -> Tensor:
        """The numbers themselves: detached, real (parts of complex ones in a last dim), in single precision at least.

        Args:
            of: A tensor of the parameter's shape, such as its gradient; the parameter by default.
        """
        tensor = (self.parameter if of is None else of).detach()
        if is_sharded(tensor):
            tensor = cast(Any, tensor).full_tensor()  # every rank comes here, in the same order
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor)
        return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()

    def rows(self, of: Tensor | None = None) -> Tensor:
        """All that belongs to each channel.

        Args:
            of: See :meth:`values`.

        Returns:
            Shape (num_channels, entries). A channel that is there more often than another has more entries; the other's
            row is filled up with zeros.
        """
        lines = self._lines(self.values(of))
        first = self.runs[0]
        if self._is_regular:
            return lines[first.start : first.end].reshape(self.num_channels, -1)
        table = self._table().to(lines.device)
        found = lines.flatten(1)[table.clamp(min=0)]
        return found.masked_fill((table < 0).unsqueeze(-1), 0.0).flatten(1)

    def sums(self, values: Tensor) -> Tensor:
        """The sum of each channel's row, without the rows.

        Args:
            values: Made of :meth:`values`, such as its squares.

        Returns:
            Shape (num_channels,).
        """
        lines = self._lines(values)
        totals = lines.sum(list(range(1, lines.dim())))
        first = self.runs[0]
        if self._is_regular:
            return totals[first.start : first.end].reshape(self.num_channels, -1).sum(1)
        places = torch.cat([totals[run.start : run.end] for run in self.runs])
        channels = torch.cat([owners(run, self.num_channels) for run in self.runs]).to(places.device)
        return places.new_zeros(self.num_channels).index_add_(0, channels, places)

    @property
    def _is_regular(self) -> bool:
        """Whether each channel is there as often as the others, one after the other."""
        return len(self.runs) == 1 and self.runs[0].index is None

    def _lines(self, tensor: Tensor) -> Tensor:
        """One line for each position of the side."""
        if self.groups == 1:
            return tensor.movedim(self.dim, 0).unsqueeze(-1)
        # the dim holds one group's channels, and the first one all groups' others
        by_group = tensor.reshape(self.groups, -1, *tensor.shape[1:])
        return by_group.movedim(self.dim + 1, 1).flatten(0, 1)

    def _table(self) -> Tensor:
        """The positions of each channel, shape (num_channels, most positions of one); -1 where one has fewer."""
        places = torch.cat([torch.arange(run.start, run.end) for run in self.runs])
        channels = torch.cat([owners(run, self.num_channels) for run in self.runs])
        order = channels.argsort(stable=True)
        places, channels = places[order], channels[order]
        counts = channels.bincount(minlength=self.num_channels)
        nth = torch.arange(len(channels)) - (counts.cumsum(0) - counts)[channels]
        table = torch.full((self.num_channels, int(counts.max())), -1)
        table[channels, nth] = places
        return table


def owners(channel: Channel, num_channels: int) -> Tensor:
    """The unit's channel at each position of a run."""
    if channel.index is not None:
        return torch.tensor(channel.index)
    return torch.arange(num_channels).repeat_interleave(channel.expand_ratio)


def group_tensors(unit: MutableChannelUnit, kinds: Iterable[Kind] = KINDS) -> list[GroupTensor]:
    """Every parameter that holds channels of a unit, those that give them first.

    A parameter that several modules share is there once; one that holds the channels along two dims is there twice.

    Args:
        unit: Of a prepared model.
        kinds: Which ones; see :class:`GroupTensor`.

    Raises:
        PrepareError: If the unit isn't prepared.

    Example:
        >>> from lightning_channels import ChannelMutator
        >>> mutator = ChannelMutator()
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> mutator.prepare_from_supernet(net, torch.randn(1, 4))
        >>> [(t.name, t.kind, tuple(t.rows().shape)) for t in group_tensors(mutator.mutable_units[0])]
        [('0.weight', 'outputs', (8, 4)), ('0.bias', 'biases', (8, 1)), ('2.weight', 'inputs', (8, 2))]
    """
    if unit.model is None:
        raise PrepareError(f"unit {unit.name!r} belongs to no prepared model; prepare one with its mutator first")
    wanted = set(kinds)
    found: dict[tuple[int, int], tuple[str, Tensor, int, int, Kind]] = {}
    runs: dict[tuple[int, int], dict[tuple[Any, ...], Channel]] = {}
    reading = {(channel.name, channel.tensor, channel.dim) for channel in unit.input_related}
    for channel in unit.channels:
        module = module_at(unit.model, channel.name)
        assert module is not None  # the unit was prepared for the model
        reads = (channel.name, channel.tensor, channel.dim) in reading
        for name, parameter, dim, groups, kind in _held(module, channel, reads):
            if kind in wanted:
                key = (id(parameter), dim)
                label = f"{channel.name}.{name}" if channel.name else name
                found.setdefault(key, (label, parameter, dim, groups, kind))
                place = (channel.start, channel.end, channel.index)
                runs.setdefault(key, {}).setdefault(place, channel)
    return [GroupTensor(*rest, unit.num_channels, tuple(runs[key].values())) for key, rest in found.items()]


def _held(module: nn.Module, channel: Channel, reads: bool) -> Iterator[tuple[str, Tensor, int, int, Kind]]:
    """(name, parameter, dim, groups, kind) of each parameter of a module that holds the channels."""
    if channel.tensor is not None:
        parameter = module._parameters.get(channel.tensor)
        if parameter is not None:
            matrix = sum(size > 1 for size in parameter.shape) > 1
            yield channel.tensor, parameter, channel.dim, 1, _bare_kind(channel.tensor, matrix, reads)
        return
    spec, key = spec_of(module), side_key(module, channel)
    if spec is None or key is None:
        return
    role = spec.sides[key]
    for name, dims in layout(module).items():
        parameter = module._parameters.get(name)
        for dim, side, groups in dims if parameter is not None else ():
            if side == key and parameter is not None:
                yield name, parameter, dim, groups, _kind(name, parameter, role.is_input, role.is_output)


def _kind(name: str, parameter: Tensor, is_input: bool, is_output: bool) -> Kind:
    if name.endswith("bias") and parameter.dim() == 1:
        return "biases"
    if is_input and is_output:
        return "norms"
    return "inputs" if is_input else "outputs"


def _bare_kind(name: str, matrix: bool, reads: bool) -> Kind:
    if reads:
        return "inputs"
    if matrix:
        return "outputs"
    return "biases" if name.endswith("bias") else "norms"
