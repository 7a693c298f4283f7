"""Multiply-accumulates and parameters at the current choices, without running the model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from lightning_channels.dynamic_ops import candidate_parameters, containers, is_dynamic
from lightning_channels.dynamic_ops.spec import spec_of
from lightning_channels.errors import PrepareError
from lightning_channels.mutables import MutableChannelContainer
from lightning_channels.mutators import ChannelMutator, find_mutator

__all__ = ["ResourceCounter", "count_resources"]


@dataclass(slots=True)
class _Term:
    """``amount`` of something at full width, scaled by the active share of some sides."""

    amount: int
    sides: tuple[MutableChannelContainer, ...]

    def active(self) -> int:
        full = math.prod(side.num_channels for side in self.sides)
        return self.amount * math.prod(side.activated_channels for side in self.sides) // full


class ResourceCounter:
    """Counts what the current choices of a prepared model cost.

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
        model = mutator.model
        modules = dict(model.named_modules())
        self._macs = [_Term(macs, _multiplied_sides(modules.get(name))) for name, macs in mutator.macs.items()]
        self._params = _parameter_terms(model)
        self.total_macs = sum(term.amount for term in self._macs)
        self.total_params = sum(term.amount for term in self._params)

    def active_macs(self) -> int:
        """Multiply-accumulates at the current choices."""
        return sum(term.active() for term in self._macs)

    def active_params(self) -> int:
        """Number of parameters at the current choices."""
        return sum(term.active() for term in self._params)


def _multiplied_sides(module: nn.Module | None) -> tuple[MutableChannelContainer, ...]:
    """The sides that a module's multiply-accumulates are proportional to."""
    if module is None or not is_dynamic(module):
        return ()
    own, spec = containers(module), spec_of(module)
    keys = [] if spec is None else [key for key, at in spec.sides.items() if at.is_input != at.is_output]
    groups = module.__dict__.get("groups", 1)
    if groups > 1 and own["in_channels"].num_channels == groups:
        keys.remove("in_channels")  # depthwise: one input channel for each output channel, however many there are
    return tuple(own[key] for key in keys)


def _parameter_terms(model: nn.Module) -> list[_Term]:
    terms: list[_Term] = []
    seen = candidate_parameters(model)  # of a norm's candidates one is in use: what its own parameters count for
    for module in model.modules():
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
            terms.append(_Term(parameter.numel(), tuple(sides)))
    return terms


def count_resources(model: nn.Module) -> dict[str, int]:
    """What the current choices of a prepared model cost.

    Args:
        model: A module that a mutator prepared.

    Returns:
        ``{"macs": …, "params": …}``; multiply-accumulates are for the batch of the example input.

    Raises:
        PrepareError: If the model isn't prepared.
    """
    mutator = find_mutator(model)
    if mutator is None:
        raise PrepareError("the model isn't prepared; call ChannelMutator().prepare_from_supernet(model) first")
    counter = ResourceCounter(mutator)
    return {"macs": counter.active_macs(), "params": counter.active_params()}
