"""What any choice costs, without setting it and without running the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_channels._modules import named_modules_of
from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources.latency import LatencyModel
from lightning_channels.resources.left import ResourcesLeft
from lightning_channels.resources.parameters import Parameters
from lightning_channels.resources.sums import Sums
from lightning_channels.resources.tables import ResourceTable
from lightning_channels.units.choosing import Choice

__all__ = ["Resources"]

_Products = Sequence[Sequence[float]]


class Resources:
    """An additive model of what any choice costs: for each operator and parameter the product of the sizes of its dims.

    Multiply-accumulates and parameters are exact, whichever channels are kept: their numbers decide.

    Args:
        mutator: A prepared mutator.
        per_sample: Whether what depends on the batch is counted for one sample of the example input, not for all.

    Attributes:
        names: What is counted: ``"macs"`` and ``"flops"`` (twice as many) of convolutions, matrix products and
            attention, ``"params"``, and ``"activations"``: the bytes of all floating tensors that operators make in a
            forward pass, views and what is changed in place not counted again. Macs and activations are for the batch
            of the example input, and missing where the model was not traced. ``"latency_ms"`` once
            :meth:`add_latency` was called.
        units: Names of the mutable units, in their order: the columns of numbers.
        full: Channels of each at full width, int64, shape (units,).
        totals: Name → cost at full width.
        latency: What :meth:`add_latency` was given.

    Example:
        >>> from torch import nn
        >>> from lightning_channels import ChannelMutator
        >>> mutator = ChannelMutator()
        >>> mutator.prepare_from_supernet(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> resources = Resources(mutator)
        >>> resources.count({"0_(0, 8)_8": 4})
        {'macs': 24, 'flops': 48, 'params': 30, 'activations': 24}
        >>> resources.measure(torch.tensor([[4], [8]]))["macs"]
        tensor([24., 48.], dtype=torch.float64)
    """

    def __init__(self, mutator: ChannelMutator, per_sample: bool = False) -> None:
        self._mutator = mutator
        units = mutator.mutable_units
        self.units = [unit.name for unit in units]
        self.full = torch.tensor([unit.num_channels for unit in units], dtype=torch.long)
        self._groups = torch.tensor([unit.groups for unit in units], dtype=torch.long)
        self._sizes, self._products, self._columns = _products(mutator, mutator.costs.samples if per_sample else 1)
        sums = {name: [entry for own in modules.values() for entry in own] for name, modules in self._products.items()}
        self.latency: LatencyModel | None = None
        self._sums = Sums(self._sizes, sums, self._columns)
        self.names = self._sums.names
        self.totals = {name: float(value) for name, value in self.measure(self.full).items()}

    def add_latency(self, model: LatencyModel) -> None:
        """Estimate ``"latency_ms"`` as well.

        Args:
            model: Of the same mutator.

        Raises:
            ConfigError: If it is of other units.
        """
        if list(model.units.items()) != list(zip(self.units, self.full.tolist(), strict=True)):
            raise ConfigError("the latency was measured on a model with other units; measure this one's")
        self.latency = model
        self.names = (*self._sums.names, "latency_ms")
        self.totals["latency_ms"] = float(model.predict(self.full[None])[0])

    @property
    def current(self) -> Tensor:
        """Active channels of each unit now, int64, shape (units,)."""
        numbers = [unit.mutable_channel.activated_channels for unit in self._mutator.mutable_units]
        return torch.tensor(numbers, dtype=torch.long)

    def measure(self, numbers: Tensor) -> dict[str, Tensor]:
        """What choices cost.

        Args:
            numbers: Active channels of each unit, int64, shape (units,), or (n, units) for n choices.

        Returns:
            Name → float64 of shape () or (n,).

        Raises:
            ConfigError: If the shape is another one.
        """
        if numbers.dim() not in (1, 2) or numbers.shape[-1] != len(self.units):
            raise ConfigError(
                f"numbers must have the shape ({len(self.units)},) or (n, {len(self.units)}), one column for each "
                f"mutable unit, got {tuple(numbers.shape)}"
            )
        rows = (numbers if numbers.dim() == 2 else numbers[None]).cpu()
        found = self._sums.at(rows / self._groups)
        if self.latency is not None:
            found["latency_ms"] = self.latency.predict(rows)
        return {name: value.reshape(numbers.shape[:-1]) for name, value in found.items()}

    def count(self, choices: Mapping[str, Choice] | None = None) -> dict[str, int]:
        """What one choice costs, in whole numbers.

        Args:
            choices: Unit name → choice, as :meth:`ChannelMutator.set_choices` takes them; units that are not named
                are counted with what they keep now. Nothing is set.

        Raises:
            ChoiceError: If a name is unknown or a choice is not allowed.
        """
        counted = self.measure(self.numbers(choices))
        return _whole({name: counted[name] for name in self._sums.names})

    def left(self, choices: Mapping[str, Choice] | None = None) -> ResourcesLeft:
        """What one choice costs beside the full width; ``print`` it for a summary.

        Args:
            choices: As :meth:`count` takes them.

        Returns:
            Both for each of ``names``: whole numbers, and milliseconds of a latency.

        Raises:
            ChoiceError: If a name is unknown or a choice is not allowed.
        """
        measured = self.measure(self.numbers(choices))
        now, full = ({name: float(own[name]) for name in self.names} for own in (measured, self.totals))
        for own in (now, full):
            own.update({name: round(own[name]) for name in self._sums.names})
        return ResourcesLeft(now, full)

    def numbers(self, choices: Mapping[str, Choice] | None = None) -> Tensor:
        """Active channels of each unit at a choice, int64, shape (units,): what :meth:`measure` takes.

        Args:
            choices: Unit name → choice; units that are not named keep what they keep now.

        Raises:
            ChoiceError: If a name is unknown or a choice is not allowed.
        """
        numbers = self.current
        for unit, number in self._mutator.check_choices(choices or {}):
            if unit.is_mutable:
                numbers[self.units.index(unit.name)] = number
        return numbers

    def table(self, choices: Mapping[str, Choice] | None = None) -> ResourceTable:
        """What one choice costs by module and by unit.

        Args:
            choices: As :meth:`count` takes them.

        Raises:
            ChoiceError: If a name is unknown or a choice is not allowed.
        """
        numbers = self.numbers(choices)
        without = numbers.repeat(len(numbers), 1).fill_diagonal_(0)
        now, gone = self.measure(numbers), self.measure(without)
        units = {
            unit: {name: round(float(now[name] - gone[name][place])) for name in self._products}
            for place, unit in enumerate(self.units)
        }
        channels = dict(zip(self.units, zip(numbers.tolist(), self.full.tolist(), strict=True), strict=True))
        full = {name: round(self.totals[name]) for name in self._products}
        return ResourceTable(self.count(choices), full, self.by_module(numbers), units, channels)

    def by_module(self, numbers: Tensor) -> dict[str, dict[str, int]]:
        """What each module costs, without the modules inside it.

        Args:
            numbers: Active channels of each unit, int64, shape (units,).

        Returns:
            Module → name → cost, in the order of the modules.
        """
        found: dict[str, dict[str, int]] = {}
        for name, products in self._products.items():
            sums = Sums(self._sizes, products, self._columns)
            for module, value in sums.at(numbers[None] / self._groups).items():
                found.setdefault(module, {})[name] = round(float(value))
        order = {name: number for number, (name, _) in enumerate(named_modules_of(self._mutator.model))}
        return {name: found[name] for name in sorted(found, key=lambda name: order.get(name, len(order)))}

    def marginal(self, numbers: Tensor, name: str) -> Tensor:
        """What one channel less of each unit would save.

        A unit with groups loses one channel in all of them together; what is given here is its part of that.

        Args:
            numbers: Active channels of each unit, int64, shape (units,).
            name: What is saved, one of ``names``.

        Returns:
            Float64 of shape (units,), nothing below 0.

        Raises:
            ConfigError: If nothing of that name is counted.
        """
        if name not in self.names:
            raise ConfigError(
                f"{name!r} is not counted{did_you_mean(name, self.names) or '.'} Known: {', '.join(self.names)}"
            )
        less = numbers.cpu() - torch.diag(self._groups)
        rows = self.measure(torch.cat([numbers.cpu()[None], less]))[name]
        return ((rows[0] - rows[1:]) / self._groups).clamp_min(0)


def _whole(values: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: round(float(value)) for name, value in values.items()}


def _scaled(products: Mapping[str, _Products], by: float) -> Mapping[str, _Products]:
    return {module: [[by * factor, *own] for factor, *own in entries] for module, entries in products.items()}


def _products(
    mutator: ChannelMutator, samples: int
) -> tuple[list[_Products], dict[str, Mapping[str, _Products]], list[tuple[int, float]]]:
    """The sizes of a model's dims, name → module → products of them, and what the sizes count."""
    units, costs = mutator.mutable_units, mutator.costs
    parameters = Parameters(mutator.model, units)
    columns, sizes = costs.columns(units), [*costs.sizes]
    moved = [[[factor, *(place + len(columns) for place in own)] for factor, *own in size] for size in parameters.sizes]
    found: dict[str, Mapping[str, _Products]] = {}
    if costs.macs:
        found["macs"] = _scaled(costs.macs, 1 / samples)
        found["flops"] = _scaled(costs.macs, 2 / samples)
    found["params"] = {
        module: [[factor, *(place + len(sizes) for place in own)] for factor, *own in products]
        for module, products in parameters.products.items()
    }
    if costs.activations:
        found["activations"] = _scaled(costs.activations, 1 / samples)
    return [*sizes, *moved], found, [*columns, *parameters.columns]
