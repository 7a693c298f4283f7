"""What any choice costs, without setting it and without running the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutators import ChannelMutator
from lightning_channels.resources.parameters import Parameters
from lightning_channels.resources.sums import Sums

__all__ = ["Resources"]


class Resources:
    """An additive model of what any choice costs: for each operator and parameter the product of the sizes of its dims.

    Multiply-accumulates and parameters are exact, whichever channels are kept: their numbers decide.

    Args:
        mutator: A prepared mutator.

    Attributes:
        names: What is counted: ``"macs"`` and ``"flops"`` (twice as many) of convolutions, matrix products and
            attention, ``"params"``, and ``"activations"``: the bytes of all floating tensors that operators make in a
            forward pass, views and what is changed in place not counted again. Macs and activations are for the batch
            of the example input, and missing where the model was not traced.
        units: Names of the mutable units, in their order: the columns of numbers.
        full: Channels of each at full width, int64, shape (units,).
        totals: Name → cost at full width.

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

    def __init__(self, mutator: ChannelMutator) -> None:
        self._mutator = mutator
        units = mutator.mutable_units
        costs, parameters = mutator.costs, Parameters(mutator.model, units)
        self.units = [unit.name for unit in units]
        self.full = torch.tensor([unit.num_channels for unit in units], dtype=torch.long)
        self._groups = torch.tensor([unit.groups for unit in units], dtype=torch.long)
        place = {name: number for number, name in enumerate(self.units)}
        mapped: list[Sequence[Sequence[float]]] = [
            [[factor, *(place[costs.units[unit]] for unit in own)] for factor, *own in size] for size in costs.sizes
        ]
        moved = len(mapped)
        sums: dict[str, Sequence[Sequence[float]]] = {}
        if costs.macs:
            macs = [entry for own in costs.macs.values() for entry in own]
            sums |= {"macs": macs, "flops": [[2 * factor, *sizes] for factor, *sizes in macs]}
        sums["params"] = [
            [factor, *(int(s) + moved for s in sizes)] for own in parameters.products.values() for factor, *sizes in own
        ]
        if costs.activations:
            sums["activations"] = [entry for own in costs.activations.values() for entry in own]
        self._sums = Sums([*mapped, *parameters.sizes], sums, len(units))
        self.names = self._sums.names
        self.totals = {name: float(value) for name, value in self.measure(self.full).items()}

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
        rows = numbers.cpu().reshape(-1, len(self.units)) / self._groups
        return {name: value.reshape(numbers.shape[:-1]) for name, value in self._sums.at(rows).items()}

    def count(self, choices: Mapping[str, int | float] | None = None) -> dict[str, int]:
        """What one choice costs, in whole numbers.

        Args:
            choices: Unit name → choice, as :meth:`ChannelMutator.set_choices` takes them; units that are not named
                are counted with what they keep now. Nothing is set.

        Raises:
            ChoiceError: If a name is unknown or a choice is not allowed.
        """
        numbers = self.current
        for unit, number in self._mutator.check_choices(choices or {}):
            if unit.is_mutable:
                numbers[self.units.index(unit.name)] = number
        return {name: round(float(value)) for name, value in self.measure(numbers).items()}

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
