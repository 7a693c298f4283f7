"""Multiply-accumulates, parameters and so on of a prepared model's choices, without running it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lightning_channels._modules import named_modules_of
from lightning_channels.errors import PrepareError
from lightning_channels.mutators import ChannelMutator, find_mutator
from lightning_channels.resources.left import ResourcesLeft
from lightning_channels.resources.model import Resources
from lightning_channels.units.choosing import Choice

__all__ = ["ResourceCounter", "count_resources", "resources_left"]


class ResourceCounter:
    """Counts what the current choices of a prepared model cost; :class:`Resources` knows that of any choice.

    Args:
        mutator: A prepared mutator.

    Attributes:
        total_macs: Multiply-accumulates of convolutions and matrix products at full width, for the batch of the example
            input; 0 if the mutator was rebuilt from a template without them.
        total_params: Number of parameters at full width.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_channels import ChannelMutator
        >>> mutator = ChannelMutator()
        >>> mutator.prepare_from_supernet(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> counter = ResourceCounter(mutator)
        >>> mutator.set_choices({"0_(0, 8)_8": 4})
        >>> counter.active_macs(), counter.total_macs
        (24, 48)
    """

    def __init__(self, mutator: ChannelMutator) -> None:
        self._resources = Resources(mutator)
        self._counted: tuple[Tensor, dict[str, int]] | None = None
        self.total_macs = int(self._resources.totals.get("macs", 0))
        self.total_params = int(self._resources.totals["params"])

    def active_macs(self) -> int:
        """Multiply-accumulates at the current choices."""
        return self._active().get("macs", 0)

    def active_params(self) -> int:
        """Number of parameters at the current choices."""
        return self._active()["params"]

    def _active(self) -> dict[str, int]:
        """All counts at the current choices, counted once for each."""
        now = self._resources.current
        if self._counted is None or not torch.equal(self._counted[0], now):
            self._counted = now, self._resources.count()
        return self._counted[1]


def count_resources(model: nn.Module, choices: Mapping[str, Choice] | None = None) -> dict[str, int]:
    """What choices of a prepared model cost.

    Args:
        model: A module that a mutator prepared.
        choices: Unit name → choice; units that are not named are counted with what they keep now. Nothing is set.

    Returns:
        ``{"macs": …, "flops": …, "params": …, "activations": …}``, as far as :class:`Resources` knows them; all but the
        parameters are for the batch of the example input.

    Raises:
        PrepareError: If the model isn't prepared.
        ChoiceError: If a name is unknown or a choice is not allowed.
    """
    return Resources(_mutator_of(model)).count(choices)


def resources_left(model: nn.Module, choices: Mapping[str, Choice] | None = None) -> ResourcesLeft:
    """What is left of a prepared model, and of how much, for one sample; ``print`` it for a summary.

    Args:
        model: A module that a mutator prepared; after a training with the callback the one that it was confined to.
        choices: Unit name → choice; units that are not named are counted with what they keep now. Nothing is set.

    Raises:
        PrepareError: If the model isn't prepared.
        ChoiceError: If a name is unknown or a choice is not allowed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_channels import ChannelMutator
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> ChannelMutator().prepare_from_supernet(net, torch.randn(1, 4))
        >>> left = resources_left(net, {"0_(0, 8)_8": 4})
        >>> print(left)
        macs: 24 of 48 (50.0%)
        params: 30 of 58 (51.7%)
        activations: 24 of 40 (60.0%)
        >>> left.shares["flops"]
        0.5
    """
    return Resources(_mutator_of(model), per_sample=True).left(choices)


def _mutator_of(model: nn.Module) -> ChannelMutator:
    found = find_mutator(model)
    if found is not None:
        return found
    inside = next((name for name, module in named_modules_of(model) if find_mutator(module) is not None), None)
    if inside is not None:
        raise PrepareError(f"the prepared module of this {type(model).__name__} is {inside!r}; pass that one")
    raise PrepareError("the model isn't prepared; call ChannelMutator().prepare_from_supernet(model) first")
