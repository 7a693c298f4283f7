"""Optimizer steps that leave alone what no pass has used since the last one.

A parameter's gradient is zero where its channels were not active, and not missing: weight decay and momentum move these
elements too. Here their values and their optimizer state are kept before a step, and put back after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_channels._modules import modules_of
from lightning_channels.dynamic_ops import stored_candidates
from lightning_channels.dynamic_ops.candidates import SWITCHED, holder_of
from lightning_channels.dynamic_ops.state import STATE, ChannelState
from lightning_channels.errors import ConfigError
from lightning_channels.mutables.selection import IndexSelection

__all__ = ["InactiveSlices", "check_optimizer"]

Region = tuple[tuple[int, IndexSelection | int], ...]
"""What is active along each narrowed dim; active are the elements that are so along all of them. Empty: all are."""

_NOT_FROM_ZERO = "its state of an element doesn't begin at zero"
_WRAPS = "it steps with another optimizer, whose state is out of reach"
_REFUSED = {
    "ASGD": _NOT_FROM_ZERO,
    "Adafactor": "it keeps no state of each element",
    "LBFGS": "it runs several passes in a step, and its state is of all parameters together",
    "PostLocalSGDOptimizer": _WRAPS,
    "Rprop": _NOT_FROM_ZERO,
    "ZeroRedundancyOptimizer": _WRAPS,
}
"""By name, since other libraries have optimizers of these names that do the same."""


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose step can't be undone element by element.

    Raises:
        ConfigError: If it is one.
    """
    for cls in type(optimizer).__mro__:
        if cls.__name__ in _REFUSED:
            raise ConfigError(
                f"{type(optimizer).__name__} can't leave inactive channels as they are: {_REFUSED[cls.__name__]}. "
                "Use SGD, Adam or AdamW"
            )


class InactiveSlices:
    """Keeps what is inactive as it is through optimizer steps: elements of parameters, and their optimizer state.

    An element is active in a step if it was so in any pass that was noted since the last one. Each state tensor of the
    parameter's shape (``momentum_buffer``, ``exp_avg``) is treated like the parameter; others, such as Adam's ``step``,
    advance as usual. State that a step creates is zero where nothing was active. Parameters of modules that aren't
    dynamic, that are frozen or have no gradient are left to the optimizer, and so are all if no pass was noted.

    Between :meth:`hold` and :meth:`put_back` there is a copy of each parameter that isn't wholly active, and of its
    state.

    Args:
        model: The model whose inactive channels are to stay as they are.
        root: The module that ``model`` is part of; its other modules may share parameters with ``model``.

    Example:
        >>> from lightning_channels import ChannelMutator
        >>> net = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
        >>> mutator = ChannelMutator()
        >>> _ = mutator.prepare_from_supernet(net, torch.randn(1, 2))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)
        >>> before, slices = net[0].weight.detach().clone(), InactiveSlices(net)
        >>> mutator.set_choices({name: 3 for name in mutator.current_choices})
        >>> slices.note()
        >>> net(torch.randn(1, 2)).sum().backward()
        >>> slices.hold(optimizer)
        >>> optimizer.step()
        >>> slices.put_back(optimizer)
        >>> (net[0]._parameters["weight"] == before).all(dim=1).tolist()
        [False, False, False, True]
    """

    def __init__(self, model: nn.Module, root: nn.Module | None = None) -> None:
        self._model = model
        self._root = model if root is None else root
        self._noted: dict[Tensor, list[Region]] = {}
        self._held: dict[Optimizer, list[_Held]] = {}

    def note(self) -> None:
        """Remember what is active now: to be called for each forward pass that gradients come from.

        Raises:
            ChoiceError: If the groups of a convolution don't keep the same channels.
        """
        own = {id(parameter) for module in modules_of(self._model) for parameter in module._parameters.values()}
        for parameter, region in _regions(self._root):
            if id(parameter) in own:
                regions = self._noted.setdefault(parameter, [])
                if region is not None and region not in regions:
                    regions.append(region)

    def hold(self, optimizer: Optimizer) -> None:
        """Keep what was inactive; to be called when the gradients are there, before the optimizer's step.

        Raises:
            ConfigError: If it is an optimizer for which this can't be right.
        """
        check_optimizer(optimizer)
        held: list[_Held] = []
        for parameter in _parameters(optimizer):
            if parameter not in self._noted or parameter.grad is None or not parameter.requires_grad:
                continue
            active = _active(parameter, self._noted[parameter])
            if active is not None:
                state = {name: tensor.clone() for name, tensor in _state(optimizer, parameter)}
                held.append(_Held(parameter, active, parameter.detach().clone(), state))
        self._held[optimizer] = held

    @torch.no_grad()
    def put_back(self, optimizer: Optimizer) -> None:
        """Undo what the step did to what was inactive, and begin to note anew for this optimizer's parameters.

        Nothing is undone where nothing is held.
        """
        for held in self._held.pop(optimizer, ()):
            _put_back(held.parameter.detach(), held.value, held.active)
            for name, tensor in _state(optimizer, held.parameter):
                before = held.state.get(name)
                if before is None:  # the step has made it
                    tensor.masked_fill_(~held.active.to(tensor.device), 0)
                else:
                    _put_back(tensor, before, held.active)
        for parameter in _parameters(optimizer):
            self._noted.pop(parameter, None)

    def reset(self) -> None:
        """Forget what was noted and drop what is held, as after a step that was skipped."""
        self._noted.clear()
        self._held.clear()


@dataclass(frozen=True, slots=True)
class _Held:
    """A parameter before a step: ``active`` is true where the step may change it, and broadcasts to its shape."""

    parameter: Tensor
    active: Tensor
    value: Tensor
    state: dict[str, Tensor]


def _regions(root: nn.Module) -> Iterator[tuple[nn.Parameter, Region | None]]:
    """(parameter, its active elements) for each parameter of each module; None where none are."""
    stored = stored_candidates(root)
    for module in modules_of(root):
        if id(module) in stored:
            continue  # the switchable norm knows whether this candidate is active
        state = module.__dict__.get(STATE)
        if not isinstance(state, ChannelState):
            yield from ((parameter, ()) for parameter in module._parameters.values() if parameter is not None)
            continue
        for name in module._parameters:
            active = holder_of(module, state) if name in SWITCHED else module
            selections = state.selections(name) if name in state.plan.tensors else []
            region = tuple((dim, selection) for dim, selection in selections if selection is not None)
            for holder in (module, *(state.candidates or ())):
                parameter = holder._parameters.get(name)
                if parameter is not None:
                    yield parameter, region if holder is active else None


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _state(optimizer: Optimizer, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The state that the optimizer has for each element of a parameter."""
    for name, held in optimizer.state.get(parameter, {}).items():
        if isinstance(held, Tensor) and held.shape == parameter.shape:
            yield name, held


def _active(parameter: Tensor, regions: list[Region]) -> Tensor | None:
    """The mask of the elements that are in any of the regions; None if all are."""
    if () in regions:
        return None
    mask = torch.zeros((), dtype=torch.bool, device=parameter.device)
    for region in regions:
        mask = mask | _inside(parameter, region)
    # several can make up the whole; to ask that of another device would mean to wait for it
    return None if len(regions) > 1 and mask.device.type == "cpu" and bool(mask.all()) else mask


def _inside(parameter: Tensor, region: Region) -> Tensor:
    """The mask of a region, of size 1 along the dims that aren't narrowed."""
    inside = torch.ones([1] * parameter.dim(), dtype=torch.bool, device=parameter.device)
    for dim, selection in region:
        line = torch.zeros(parameter.shape[dim], dtype=torch.bool, device=parameter.device)
        if isinstance(selection, IndexSelection):
            line.index_fill_(0, selection.on(parameter.device), True)
        else:
            line[:selection] = True
        inside = inside & line.view([-1 if other == dim else 1 for other in range(parameter.dim())])
    return inside


def _put_back(tensor: Tensor, before: Tensor, active: Tensor) -> None:
    torch.where(active.to(tensor.device), tensor, before, out=tensor)
