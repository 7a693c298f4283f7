"""Slices of parameters with a backward pass of their own, where autograd's costs more than all else that slicing does.

The gradient of a slice is as large as the parameter, and mostly zeros. One that is selected by index along its inputs
is put together slowly, and in two steps if its outputs are narrow too. Those of several narrow passes are each filled,
and then added to each other; here they are added, as they come, into a single tensor of full size. The parameter
gets one gradient through autograd as ever, so its hooks, DDP's among them, see what they would have seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lightning_channels.dynamic_ops.blocks import blocks
from lightning_channels.dynamic_ops.slicing import PLAIN, Selections, accumulate, apply, scatter
from lightning_channels.dynamic_ops.state import STATE, ChannelState
from lightning_channels.mutables.selection import IndexSelection, size_of

__all__ = ["JointGradients", "cut"]

# entries from which the calls of Python that it takes are cheaper than what they spare
_LARGE = 49152
_LARGE_JOINT = 32768

Layout = tuple[torch.Size, tuple[int, ...]]


def cut(tensor: Tensor, selections: Selections, joint: JointGradients | None) -> Tensor:
    """The active part of a tensor, as :func:`~lightning_channels.dynamic_ops.slicing.apply` gives it."""
    if torch.compiler.is_compiling():  # it would guard all that is looked at below
        return apply(tensor, selections)
    if joint is not None and joint.takes(tensor) and _has_plain_autograd(tensor):
        return joint.cut(tensor, selections)
    if tensor.numel() >= _LARGE and any(isinstance(selection, IndexSelection) for _, selection in selections):
        if _has_plain_autograd(tensor):
            return _cut(tensor, None, selections)
        if not (tensor.requires_grad and torch.is_grad_enabled()):
            return _gather(tensor, selections)
    return apply(tensor, selections)


def _has_plain_autograd(tensor: Tensor) -> bool:
    """Whether nothing but a backward pass can come."""
    return (
        tensor.requires_grad
        and type(tensor) in PLAIN
        and torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


class JointGradients:
    """Inside its block, narrow tensors of a model's dynamic ops share one gradient for each parameter.

    Args:
        model: With dynamic ops, all of them converted already.
        smallest: Entries of a convolution's weight from which it is done.

    Example:
        >>> joint = JointGradients(model)  # doctest: +SKIP
        >>> with joint:  # doctest: +SKIP
        ...     loss = sum(loss_at(width) for width in widths)
        >>> loss.backward()  # doctest: +SKIP
    """

    def __init__(self, model: nn.Module, smallest: int = _LARGE_JOINT) -> None:
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

    def takes(self, tensor: Tensor) -> bool:
        """Whether a tensor is large enough; weights of linear layers gain nothing, as measured on convnext_tiny."""
        return tensor.numel() >= self.smallest and tensor.dim() > 2

    def cut(self, tensor: Tensor, selections: Selections) -> Tensor:
        """The active part of a parameter."""
        known = self._hubs.get(id(tensor))
        if known is None:
            parts = _Parts()
            hub: Tensor = _Hub.apply(tensor, parts)
            known = self._hubs[id(tensor)] = (tensor, hub, parts)  # the tensor too, or its id could be another's
        _, hub, parts = known
        return _cut(hub, parts, selections)


class _Parts:
    """The sum of the gradients of slices, by backward pass: of two that are nested each has its own."""

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}

    def add(self, part: Tensor, selections: Selections, layout: Layout) -> None:
        backward_pass = _backward_pass()
        full = self._sums.get(backward_pass)
        if full is None:
            self._sums[backward_pass] = _spread(part, selections, layout)
            return
        pairs = blocks(full, selections, part)
        for whole, own in pairs:
            whole.add_(own)
        if not pairs:
            accumulate(full, selections, part)

    def take(self) -> Tensor | None:
        return self._sums.pop(_backward_pass(), None)


def _backward_pass() -> int:
    return torch._C._current_graph_task_id()


class _Hub(torch.autograd.Function):
    """The parameter as it is; its gradient is the sum of the parts, which are all there when it is asked for."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, parts: _Parts) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.parts = parts
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        (gradient,) = gradients
        total = ctx.parts.take()
        if gradient is not None:  # those of gradients of gradients come through autograd
            return gradient if total is None else gradient + total, None
        return total, None


class _Cut(torch.autograd.Function):
    """A slice, whose gradient is added up for the hub if there is one."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, parts: _Parts | None, selections: Selections) -> Tensor:
        ctx.parts, ctx.selections, ctx.layout = parts, selections, (tensor.shape, tensor.stride())
        return _gather(tensor, selections)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = gradients
        if torch.is_grad_enabled():  # for a gradient of the gradient it must be an operator that autograd knows
            full = gradient.new_zeros(ctx.layout[0]).requires_grad_()
            (spread,) = torch.autograd.grad(apply(full, ctx.selections), full, gradient, create_graph=True)
            return spread, None, None
        if ctx.parts is None:
            return _spread(gradient, ctx.selections, ctx.layout), None, None
        ctx.parts.add(gradient, ctx.selections, ctx.layout)
        return None, None, None


def _cut(tensor: Tensor, parts: _Parts | None, selections: Selections) -> Tensor:
    part: Tensor = _Cut.apply(tensor, parts, selections)
    return part


def _gather(tensor: Tensor, selections: Selections) -> Tensor:
    """The active part of a tensor: a view where all selections are prefixes, else a copy; past autograd."""
    size, indices = list(tensor.shape), 0
    for dim, selection in selections:
        size[dim] = size_of(selection, size[dim])
        indices += isinstance(selection, IndexSelection)
    # what is in channels_last, an index keeps so
    if indices == 1 and type(tensor) in PLAIN and tensor.is_contiguous():
        part = tensor.new_empty(size)
        pairs = blocks(tensor, selections, part)
        for whole, own in pairs:
            own.copy_(whole)
        if pairs:
            return part
    return apply(tensor, selections)


def _spread(part: Tensor, selections: Selections, layout: Layout) -> Tensor:
    """A tensor of full size with ``part`` in its active part, and zeros."""
    full = part.new_empty_strided(*layout).zero_()
    pairs = blocks(full, selections, part)
    for whole, own in pairs:
        whole.copy_(own)
    if not pairs:
        scatter(full, selections, part)
    return full
