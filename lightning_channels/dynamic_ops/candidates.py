"""The tensors of a switchable norm's candidates, and which of them it runs with.

The widest candidate's are the norm's own, under the keys that the plain model has. The others are kept in
``candidates``, a list of plain norms that are never called; they are norms so that whoever looks for the parameters and
statistics of norms (to freeze them, or to leave out weight decay) finds these too. All are at full size, so that a
selection means the same for each of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_channels._modules import modules_of
from lightning_channels.dynamic_ops.spec import sides
from lightning_channels.dynamic_ops.state import STATE, ChannelState
from lightning_channels.mutables.selection import IndexSelection, size_of

__all__ = [
    "CANDIDATES",
    "SIDE",
    "SWITCHED",
    "candidate_parameters",
    "copies_of",
    "drop",
    "holder_of",
    "joined",
    "settle",
    "statistics_holder",
    "stored_candidates",
    "with_all_candidates",
]

CANDIDATES = "candidates"
"""The child that holds them, and so the part that their state-dict keys have in common."""

SIDE = "num_features"

SWITCHED = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
"""What each candidate has its own of."""


def holder_of(module: nn.Module, state: ChannelState) -> nn.Module:
    """Whose tensors a dynamic op runs with: its own, or those of the active candidate.

    Where the units on its side stand at different candidates, or at none, they are its own.
    """
    if state.candidates is None:
        return module
    candidate = _active(state)
    return module if candidate is None or candidate >= len(state.candidates) else state.candidates[candidate]


def _active(state: ChannelState) -> int | None:
    """The candidate of all units on the norm's side; None where they don't agree."""
    candidates = [mutable.root.candidate for mutable in state.container(SIDE).mutables]
    if not candidates or candidates.count(candidates[0]) < len(candidates):
        return None
    return candidates[0]


def statistics_holder(module: nn.Module) -> nn.Module:
    """Whose running statistics a norm reads and updates now: its own, or those of a candidate."""
    state = module.__dict__.get(STATE)
    return holder_of(module, state) if isinstance(state, ChannelState) else module


def joined(module: nn.Module, state: ChannelState, name: str) -> Tensor | None:
    """The active part of the active candidate's parameter, with all candidates' parameters in its graph.

    The others' gradients are zeros then, as those of inactive channels are, and not missing: DDP waits for each.

    Returns:
        None where there is no such parameter, or where none of them is trained.
    """
    assert state.candidates is not None
    parameters: list[Tensor] = []
    for holder in (*state.candidates, module):
        parameter = holder._parameters.get(name)
        if parameter is None:
            return None
        parameters.append(parameter)
    if not any(parameter.requires_grad for parameter in parameters):
        return None
    last = len(state.candidates)
    candidate = _active(state)
    size = parameters[0].shape[0]
    start = size * (last if candidate is None else min(candidate, last))
    selection = state.container(SIDE).sel
    everything = torch.cat(parameters)
    if isinstance(selection, IndexSelection):
        return everything.narrow(0, start, size).index_select(0, selection.on(everything.device))
    return everything.narrow(0, start, size_of(selection, size))


def with_all_candidates(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that has all candidates' parameters in its graph; only in there are they read so."""

    @functools.wraps(forward)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        if state is None or state.candidates is None or state.joined or not torch.is_grad_enabled():
            return forward(self, *args, **kwargs)
        state.joined = True
        try:
            return forward(self, *args, **kwargs)
        finally:
            state.joined = False

    return wrapped


def copies_of(norm: nn.Module, number: int) -> nn.ModuleList:
    """Norms with the same parameters and statistics, to begin with."""
    return nn.ModuleList([_copy(norm) for _ in range(number)])


def _copy(norm: nn.Module) -> nn.Module:
    assert isinstance(norm, _BatchNorm)
    kind = next(cls for cls in type(norm).__mro__ if cls.__module__ == _BatchNorm.__module__)
    size = sides(norm)[SIDE]
    copied: nn.Module = kind(size, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta")
    copied.train(norm.training)
    for name in SWITCHED:
        if name in norm._parameters:
            copied._parameters[name] = _copied_parameter(norm._parameters[name])
        elif name in norm._buffers:
            buffer = norm._buffers[name]
            copied._buffers[name] = None if buffer is None else buffer.detach().clone()
    return copied


def _copied_parameter(parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None:
        return None
    copied = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    copied.__dict__.update(parameter.__dict__)
    return copied


def settle(module: nn.Module, state: ChannelState) -> None:
    """Make the active candidate's tensors the norm's own, and drop all others."""
    holder = holder_of(module, state)
    for name in SWITCHED if holder is not module else ():
        for own, chosen in ((module._parameters, holder._parameters), (module._buffers, holder._buffers)):
            if name in own:
                own[name] = chosen[name]  # type: ignore[assignment]
    drop(module, state)


def drop(module: nn.Module, state: ChannelState) -> None:
    """Take the candidates off a norm that isn't to be switchable any more."""
    if state.candidates is not None:
        state.candidates = None
        del module._modules[CANDIDATES]


def stored_candidates(model: nn.Module) -> set[int]:
    """Identities of the norms in ``model`` that only hold a candidate's tensors."""
    states = [module.__dict__.get(STATE) for module in modules_of(model)]
    lists = [state.candidates for state in states if isinstance(state, ChannelState) and state.candidates is not None]
    return {id(candidate) for candidates in lists for candidate in candidates}


def candidate_parameters(model: nn.Module) -> set[int]:
    """Identities of the parameters in ``model`` that belong to candidates other than the widest."""
    stored = stored_candidates(model)
    return {id(p) for module in modules_of(model) if id(module) in stored for p in module.parameters()}
