"""Gradients of one parameter from several narrow passes, put together once.

Each slice of a parameter has a full-size gradient, mostly zeros: to fill it and to add it to those of the other passes
costs more than all else that slicing does. Here the slices' own gradients wait for each other, and are then added into
a single tensor of full size. The parameter gets one gradient through autograd as ever, so its hooks, DDP's among
them, see what they would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels.dynamic_ops.slicing import PLAIN, accumulate, apply, scatter
from lightning_channels.dynamic_ops.state import STATE, ChannelState
from lightning_channels.mutables.selection import Selection

__all__ = ["JointGradients"]

Selections = Sequence[tuple[int, Selection]]


class JointGradients:
    """Inside its block, narrow tensors of a model's dynamic ops share one gradient for each parameter.

    Args:
        model: With dynamic ops, all of them converted already.
        smallest: Entries of a tensor from which the calls of Python that it takes are cheaper than filling and adding.

    Example:
        >>> joint = JointGradients(model)  # doctest: +SKIP
        >>> with joint:  # doctest: +SKIP
        ...     loss = sum(loss_at(width) for width in widths)
        >>> loss.backward()  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, smallest: int = 16384) -> None:
        self.smallest = smallest
        states = (module.__dict__.get(STATE) for module in model.modules())
        self._states = [state for state in states if isinstance(state, ChannelState)]
        self._hubs: dict[int, tuple[Tensor, Tensor, _Parts]] = {}

    def __enter__(self) -> JointGradients:
        for state in self._states:
            state.joint = self
        return self

    def __exit__(self, *_: object) -> None:
        for state in self._states:
            state.joint = None
        self._hubs = {}

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # a copy of the model, made inside of the block, isn't in one

    def narrow(self, tensor: Tensor, selections: Selections) -> Tensor | None:
        """The active part of a parameter; None where slicing it as ever is better."""
        if tensor.numel() < self.smallest or type(tensor) not in PLAIN or not tensor.requires_grad:
            return None
        if not torch.is_grad_enabled() or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return None
        known = self._hubs.get(id(tensor))
        if known is None:
            parts = _Parts()
            hub: Tensor = _Hub.apply(tensor, parts)
            known = self._hubs[id(tensor)] = (tensor, hub, parts)  # the tensor too, or its id could be another's
        _, hub, parts = known
        part: Tensor = _Cut.apply(hub, parts, selections)
        return part


class _Parts:
    """Gradients of slices, by backward pass: of two that are nested each takes its own."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[tuple[Selections, Tensor]]] = {}

    def put(self, selections: Selections, gradient: Tensor) -> None:
        self._waiting.setdefault(_backward_pass(), []).append((selections, gradient))

    def take(self) -> list[tuple[Selections, Tensor]]:
        return self._waiting.pop(_backward_pass(), [])


def _backward_pass() -> int:
    return torch._C._current_graph_task_id()


class _Hub(torch.autograd.Function):
    """The parameter as it is; its gradient is the sum of the parts, which are all there when it is asked for."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, parts: _Parts) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.parts, ctx.layout = parts, (tensor.shape, tensor.stride())
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (gradient,) = gradients
        for place, (selections, part) in enumerate(ctx.parts.take()):
            if gradient is None:
                gradient = part.new_empty_strided(*ctx.layout).zero_()
                scatter(gradient, selections, part)
            else:
                if place == 0:
                    gradient = gradient.clone()  # it may be somebody else's as well
                accumulate(gradient, selections, part)
        return gradient, None


class _Cut(torch.autograd.Function):
    """A slice, whose gradient waits at the hub."""

    @staticmethod
    def forward(ctx: Any, hub: Tensor, parts: _Parts, selections: Selections) -> Tensor:
        ctx.parts, ctx.selections, ctx.shape = parts, selections, hub.shape
        return apply(hub, selections)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        if torch.is_grad_enabled():  # for a gradient of the gradient it must be an operator that autograd knows
            with torch.enable_grad():
                full = gradient.new_zeros(ctx.shape).requires_grad_()
                (spread,) = torch.autograd.grad(apply(full, ctx.selections), full, gradient, create_graph=True)
            return spread, None, None
        ctx.parts.put(ctx.selections, gradient)
        return None, None, None
