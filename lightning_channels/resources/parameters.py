"""How many parameters are left, whatever is chosen: read off the containers, without a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from lightning_channels._modules import named_modules_of
from lightning_channels.dynamic_ops import candidate_parameters, containers, is_dynamic
from lightning_channels.dynamic_ops.spec import spec_of
from lightning_channels.mutables import DerivedMutableChannel, MutableChannelContainer
from lightning_channels.tracing.forms import Form, Variable, count_form, owners_of
from lightning_channels.units import MutableChannelUnit

__all__ = ["Parameters"]


class Parameters:
    """The parameters of a prepared model by module, as products of sizes.

    Args:
        model: Prepared.
        units: Its mutable units.

    Attributes:
        sizes: Each a sum of products ``[factor, column, …]``.
        columns: Of each column the unit, and how many of its channels it counts at most.
        products: Module → products ``[factor, size, …]``; a parameter that is shared counts where it comes first.
    """

    def __init__(self, model: nn.Module, units: Sequence[MutableChannelUnit]) -> None:
        self.sizes: list[list[list[float]]] = []
        self.columns: list[tuple[int, float]] = []
        self.products: dict[str, list[list[float]]] = {}
        self._known: dict[Form, int] = {}
        self._widths = [unit.num_channels // unit.groups for unit in units]
        self._owners = owners_of(self._widths)
        self._unit = {id(unit.mutable_channel.root): number for number, unit in enumerate(units)}
        self._first = [sum(self._widths[:number]) for number in range(len(units))]
        seen = candidate_parameters(model)  # of a norm's candidates one is in use: what its own parameters count for
        for name, module in named_modules_of(model):
            found = list(self._of_module(module, seen))
            if found:
                self.products[name] = found

    def _of_module(self, module: nn.Module, seen: set[int]) -> Iterator[list[float]]:
        own = containers(module) if is_dynamic(module) else {}
        spec = spec_of(module)
        for name, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            keys = spec.tensors.get(name) if spec is not None else None
            if keys is None:  # a bare parameter's sides bear its name
                sides = [side for key, side in own.items() if key == name or key.startswith(f"{name}[")]
            else:
                sides = [own[key] for dim, key in enumerate(keys) if key in own and parameter.shape[dim] > 1]
            factor = parameter.numel() / math.prod(side.num_channels for side in sides)  # with groups a fraction
            yield [factor, *(self._size(side) for side in sides)]

    def _size(self, side: MutableChannelContainer) -> int:
        columns = []
        for tiling in (side.mutable_channels, side.crossing_channels):
            column = torch.full((side.num_channels,), -1)
            for (start, end), mutable in tiling.items():
                unit = self._unit.get(id(mutable.root))
                if unit is not None:
                    positions = torch.arange(end - start)
                    if isinstance(mutable, DerivedMutableChannel):
                        positions = mutable.positions
                    column[start:end] = positions % self._widths[unit] + self._first[unit]
            columns.append(column)
        form = count_form(columns, side.num_channels, self._owners, self._widths)
        if form not in self._known:
            self._known[form] = len(self.sizes)
            self.sizes.append([[factor, *map(self._column, variables)] for factor, variables in form])
        return self._known[form]

    def _column(self, variable: Variable) -> int:
        if variable not in self.columns:
            self.columns.append(variable)
        return self.columns.index(variable)
