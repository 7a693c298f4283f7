"""What any choice costs, as a traced model's operators say, in plain data: what a structure holds for its resources.

.. code-block:: yaml

    costs:
      units: [conv1_(0, 64)_64, fc1_(0, 10)_10]
      sizes: [[[1, 0]], [[3], [1, 0], [2, 1]]]      # n0; 3 + n0 + 2 n1
      macs: {conv1: [[9408, 0]], fc1: [[5, 0, 1]]}  # 9408 n0; 5 n0 (3 + n0 + 2 n1)
      activations: {conv1: [[4096, 0]]}
      samples: 2

``n0`` is the number of channels that the unit ``units[0]`` keeps, in each of its groups. An entry ``[name, 3]`` stands
for how many it keeps of the first 3: a copy that lacks the others has as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import ConfigError, check_keys, did_you_mean
from lightning_channels.tracing import ModuleGraph
from lightning_channels.tracing.costs import Cost, activations, macs
from lightning_channels.tracing.forms import Form, Forms, Variable
from lightning_channels.units import MutableChannelUnit

__all__ = ["Costs", "Products"]

Products = dict[str, list[list[float]]]
"""Module → products ``[factor, size, …]``, whose sum is what it costs."""

_KEYS = ("units", "sizes", "macs", "activations", "samples")
_MOST = 2**62
_FACTORS = 12
"""The most places in a product: networks have two, and the product of so many is still a finite float."""


@dataclass(slots=True)
class Costs:
    """What each module costs, as sums of products of sizes.

    Attributes:
        units: What sizes depend on: a unit's name, or [name, limit] for what is kept of its first channels.
        sizes: Each a sum of products ``[factor, unit, …]``, the unit by its place in ``units``.
        macs: Multiply-accumulates by module, for the batch of the example.
        activations: Bytes by module.
        samples: How many samples the example has: the first dim of its inputs, where that is the same for all.
    """

    units: list[str | list[Any]] = field(default_factory=list)
    sizes: list[list[list[float]]] = field(default_factory=list)
    macs: Products = field(default_factory=dict)
    activations: Products = field(default_factory=dict)
    samples: int = 1

    def full_macs(self, units: Iterable[MutableChannelUnit]) -> dict[str, int]:
        """Multiply-accumulates by module at full width."""
        units = list(units)
        sizes = self._full_sizes(units)
        return {module: round(sum(_product(sizes, *entry) for entry in own)) for module, own in self.macs.items()}

    def _full_sizes(self, units: Sequence[MutableChannelUnit]) -> list[float]:
        widths = [unit.num_channels // unit.groups for unit in units]
        full = [min(widths[place], limit) for place, limit in self.columns(units)]
        return [sum(_product(full, *entry) for entry in size) for size in self.sizes]

    def columns(self, units: Iterable[MutableChannelUnit]) -> list[tuple[int, float]]:
        """What ``units`` says: the place of each among some units, and the limit.

        Args:
            units: Among which all are.
        """
        place = {unit.name: number for number, unit in enumerate(units)}
        return [
            (place[entry], math.inf) if isinstance(entry, str) else (place[entry[0]], entry[1]) for entry in self.units
        ]

    def to_plain(self) -> dict[str, Any]:
        """As plain data; empty if nothing was recorded."""
        if not self.macs and not self.activations:
            return {}
        return self.as_dict()

    def as_dict(self) -> dict[str, Any]:
        """Its attributes."""
        return {key: getattr(self, key) for key in _KEYS}

    @classmethod
    def read(cls, data: Any, units: Sequence[MutableChannelUnit]) -> Costs:
        """From plain data.

        Args:
            data: What :meth:`to_plain` gave.
            units: Of the model.

        Raises:
            ConfigError: If it is something else, or names units that the model doesn't have or that can't change.
        """
        if data is None or data == {}:
            return cls()
        check_keys(data, _KEYS, "costs of parse_cfg")
        given = {key: data.get(key, default) for key, default in cls().as_dict().items()}
        if not is_int(given["samples"]) or not 0 < given["samples"] < _MOST:
            raise ConfigError(f"samples of costs of parse_cfg must be a positive integer, got {given['samples']!r}")
        known = {unit.name for unit in units if unit.is_mutable}
        if not isinstance(given["units"], list) or not all(map(_is_variable, given["units"])):
            raise ConfigError("units of costs of parse_cfg must be a list of names of units, or of [name, limit]")
        for name in (entry if isinstance(entry, str) else entry[0] for entry in given["units"]):
            if name not in known:
                hint = did_you_mean(name, known) or "."
                raise ConfigError(f"costs of parse_cfg depend on {name!r}, which is no mutable unit{hint}")
        if not isinstance(given["sizes"], list) or not all(
            # what is left behind the first n channels is a difference
            _is_sum(size, len(given["units"]), -_MOST)
            for size in given["sizes"]
        ):
            raise ConfigError("sizes of costs of parse_cfg must be lists of [factor, places in units, …]")
        for key in ("macs", "activations"):
            own = given[key]
            if not isinstance(own, dict) or not all(_is_sum(entry, len(given["sizes"])) for entry in own.values()):
                raise ConfigError(
                    f"{key} of costs of parse_cfg must be a dict, module → list of [factor, places in sizes, …]"
                )
        costs = cls(**given)
        if min(costs._full_sizes(units), default=0) < 0:
            raise ConfigError("sizes of costs of parse_cfg must not be below zero at full width")
        return costs

    @classmethod
    def of(cls, graph: ModuleGraph, units: Sequence[MutableChannelUnit]) -> Costs:
        """What a traced model's operators say.

        Args:
            graph: What the tracer found.
            units: One for each of its groups, in their order; those that can't change count with their full width.
        """
        return _Writer(graph, units).write()


class _Writer:
    """Writes the costs of one graph down."""

    def __init__(self, graph: ModuleGraph, units: Sequence[MutableChannelUnit]) -> None:
        self._graph = graph
        self._forms = Forms(graph)
        mutable = [number for number, unit in enumerate(units) if unit.is_mutable]
        self._units = units
        self._place = {(number, self._forms.widths[number]): place for place, number in enumerate(mutable)}
        self._costs = Costs([units[number].name for number in mutable])
        self._known: dict[Any, int] = {}
        self._written: dict[Form, tuple[float, int | None]] = {}

    def write(self) -> Costs:
        program = self._graph.program
        batches = {program.shapes[ref][0] for ref in program.inputs if program.shapes[ref]}
        self._costs.samples = max(1, batches.pop()) if len(batches) == 1 else 1
        self._costs.macs = self._products(macs)
        if program.complete:
            self._costs.activations = self._products(activations)
        return self._costs

    def _products(self, costs: Callable[[Any], Iterable[Cost]]) -> Products:
        found: dict[str, dict[tuple[int, ...], float]] = {}
        for cost in costs(self._graph.program):
            times: float = cost.times
            sizes: list[int] = []
            for ref, dim in cost.dims:
                factor, size = self._size(self._forms.of(self._graph.walk, ref, dim))
                times *= factor
                if size is not None:
                    sizes.append(size)
            own = found.setdefault(cost.module, {})
            if times:
                key = tuple(sorted(sizes))
                own[key] = own.get(key, 0) + times
        return {module: [[times, *sizes] for sizes, times in own.items()] for module, own in found.items() if own}

    def _size(self, form: Form) -> tuple[float, int | None]:
        """A constant factor of a form, and the number of the size that is left, if it isn't 1."""
        if form not in self._written:
            self._written[form] = self._write(form)
        return self._written[form]

    def _write(self, form: Form) -> tuple[float, int | None]:
        total: dict[tuple[int, ...], float] = {}
        for factor, variables in form:
            key = tuple(self._column(v) for v in variables if self._units[v[0]].is_mutable)
            fixed = math.prod(limit for group, limit in variables if not self._units[group].is_mutable)
            total[key] = total.get(key, 0) + factor * fixed
        if total.keys() == {()}:
            return total[()], None
        factors = [factor for factor in total.values() if is_int(factor)]
        common = math.gcd(*factors) if len(factors) == len(total) else 1
        rest = tuple((factor if common == 1 else factor // common, who) for who, factor in sorted(total.items()))
        number = self._known.setdefault(rest, len(self._known))
        if number == len(self._costs.sizes):
            self._costs.sizes.append([[factor, *who] for factor, who in rest])
        return common, number

    def _column(self, variable: Variable) -> int:
        place = self._place.setdefault(variable, len(self._costs.units))
        if place == len(self._costs.units):
            self._costs.units.append([self._units[variable[0]].name, variable[1]])
        return place


def _product(values: Sequence[float], factor: float, *places: float) -> float:
    return factor * math.prod(values[int(place)] for place in places)


def _is_variable(value: Any) -> bool:
    """Whether something is a name, or [name, limit]."""
    if isinstance(value, list):
        return len(value) == 2 and isinstance(value[0], str) and is_int(value[1]) and 0 < value[1] < _MOST
    return isinstance(value, str)


def _is_sum(value: Any, places: int, least: float = 0) -> bool:
    """Whether something is a list of [factor, place, …]."""
    return isinstance(value, list) and all(
        isinstance(entry, list)
        and 0 < len(entry) <= 1 + _FACTORS
        and is_number(entry[0])
        and least <= entry[0] < _MOST
        and all(is_int(place) and 0 <= place < places for place in entry[1:])
        for entry in value
    )
