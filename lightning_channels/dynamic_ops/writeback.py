"""Copies of selected tensors inside a forward, and writes to those of a dynamic op: statistics, and assignments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels.dynamic_ops.candidates import holder_of
from lightning_channels.dynamic_ops.slicing import apply, scatter
from lightning_channels.dynamic_ops.state import STATE, ChannelState
from lightning_channels.errors import PrepareError
from lightning_channels.mutables.selection import IndexSelection

__all__ = ["absorb", "check_shape", "with_one_copy", "with_statistics"]


def with_statistics(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward whose updates of buffers reach the full buffers.

    Prefixes are views and need nothing. An index selects into a copy: each access inside one forward in train mode then
    gives the same copy, and what the forward left in it is written back.
    """
    # torch's own norms keep running statistics for a backward pass that doesn't read them, and update them without
    # counting that as a change; if we did, no narrow pass could come between a wide one and its backward pass
    uncounted = forward.__module__.startswith("torch.nn.")

    @functools.wraps(forward)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        if state is None or not self.training or state.live is not None or not _indexed(self, state):
            return forward(self, *args, **kwargs)
        state.live = {}
        try:
            result = forward(self, *args, **kwargs)
            buffers = holder_of(self, state)._buffers
            for name, (_, part) in state.live.items():
                full = buffers.get(name)
                if full is not None:
                    scatter(full.data if uncounted else full, state.selections(name), part)
        finally:
            state.live = None
        return result

    return wrapped


def with_one_copy(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that reads its weights several times, and copies each that is selected by index once."""

    @functools.wraps(forward)
    def wrapped(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        if state is None or state.live is not None or torch.compiler.is_compiling():
            return forward(self, *args, **kwargs)
        state.live = {}
        try:
            return forward(self, *args, **kwargs)
        finally:
            state.live = None

    return wrapped


def _indexed(self: nn.Module, state: ChannelState) -> bool:
    """Whether a buffer is selected by index."""
    buffers = self._buffers
    held = state.held
    for name, entries in state.plan.tensors.items():
        if name in buffers:
            for _, place, _ in entries:
                if isinstance(held[place].sel, IndexSelection):
                    return True
    return False


def absorb(self: nn.Module, state: ChannelState, name: str, value: Tensor) -> bool:
    """Take ``self.running_mean = new`` of active size as an update of the active entries; the full buffer stays."""
    full = holder_of(self, state)._buffers.get(name)
    if full is None or isinstance(value, nn.Parameter) or value.shape == full.shape:
        return False
    selections = state.selections(name)
    if value.shape != apply(full, selections).shape:
        return False
    scatter(full, selections, value)
    if state.live is not None:
        state.live.pop(name, None)
    return True


def check_shape(self: nn.Module, state: ChannelState, name: str, value: Tensor) -> None:
    """Check that a new tensor has all channels.

    Raises:
        PrepareError: If it doesn't.
    """
    for dim, container, groups in state.entries(name):
        size = container.num_channels // groups
        if dim >= value.dim() or value.shape[dim] != size:
            raise PrepareError(
                f"{type(self).__name__}.{name} must have all {size} channels along dim {dim}, not only the active ones;"
                f" got a tensor of shape {tuple(value.shape)}. To change its size, restore() the module first"
            )
