"""Applying selections to a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.parameter import Buffer, Parameter

from lightning_channels.mutables.selection import IndexSelection, Selection

__all__ = ["PLAIN", "Selections", "accumulate", "apply", "prefix", "scatter"]

Selections: TypeAlias = Sequence[tuple[int, Selection]]
"""(dim, selection) pairs, a dim at most once."""

PLAIN = frozenset((Parameter, Tensor, Buffer))
"""Classes whose strides say where everything is."""


def apply(tensor: Tensor, selections: Selections) -> Tensor:
    """The active part of a tensor: a view where all selections are prefixes, else a copy.

    Args:
        tensor: The full tensor; gradients flow into it.
        selections: (dim, selection) pairs, a dim at most once.
    """
    tensor, indices = _narrowed(tensor, selections)
    for dim, selection in indices:
        tensor = _selected(tensor, dim, selection.on(tensor.device))
    return tensor


def _narrowed(tensor: Tensor, selections: Selections) -> tuple[Tensor, list[tuple[int, IndexSelection]]]:
    """A view of what the prefixes leave, and what is left to select by index."""
    size: list[int] | None = None
    indices: list[tuple[int, IndexSelection]] = []
    for dim, selection in selections:
        if isinstance(selection, IndexSelection):
            indices.append((dim, selection))
        elif selection is not None:
            if size is None:
                size = list(tensor.shape)
            size[dim] = selection
    return tensor if size is None else prefix(tensor, size), indices


def _selected(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """``index_select``, which by itself gives the contiguous layout to a tensor in channels_last."""
    strides = tensor.stride()
    if len(strides) < 4 or strides[1] != 1 or strides[-1] == 1:
        return tensor.index_select(dim, index)
    at = dim if dim == 0 else dim - 1 if dim > 1 else len(strides) - 1
    return tensor.movedim(1, -1).index_select(at, index).movedim(-1, 1)


def prefix(tensor: Tensor, size: list[int]) -> Tensor:
    """The first ``size[dim]`` entries along each dim, as a view."""
    # One as_strided does what a narrow for each dim would, as one autograd node. Measured forward and backward, in us,
    # on a 512x512x3x3 weight halved both ways: as_strided 400, two narrows or slices 740; in channels_last 400, 2650,
    # since the narrows' gradients come back in another layout and are copied again. A negative pad (390 and 650) is no
    # view and takes 75 in the forward alone; an autograd.Function (320 and 2280) gains on such a weight in the
    # contiguous layout only, and loses on small ones, where its call, three times as long, is most of it.
    if type(tensor) in PLAIN:
        return torch.as_strided(tensor, size, tensor.stride())
    for dim, count in enumerate(size):  # a tensor subclass may not know its strides
        if count != tensor.shape[dim]:
            tensor = tensor.narrow(dim, 0, count)
    return tensor


def scatter(tensor: Tensor, selections: Selections, values: Tensor) -> None:
    """Write the active part of a tensor, in place and past autograd; the rest stays as it is."""
    if len(selections) == 1 and tensor.dim() == 1 and not (tensor.requires_grad or values.requires_grad):
        ((dim, selection),) = selections
        if isinstance(selection, IndexSelection):  # most often: statistics, in a third of the time
            tensor.index_copy_(dim, selection.on(tensor.device), values)
            return
    with torch.no_grad():
        tensor, indices = _narrowed(tensor, selections)
        if not indices:
            tensor.copy_(values)
        elif len(indices) == 1:
            ((dim, selection),) = indices
            tensor.index_copy_(dim, selection.on(tensor.device), values)
        else:
            grid: list[Tensor] = [torch.arange(size, device=tensor.device) for size in tensor.shape]
            for dim, selection in indices:
                grid[dim] = selection.on(tensor.device)
            tensor[torch.meshgrid(grid, indexing="ij")] = values


def accumulate(tensor: Tensor, selections: Selections, values: Tensor) -> None:
    """Add to the active part of a tensor, in place and past autograd."""
    with torch.no_grad():
        tensor, indices = _narrowed(tensor, selections)
        if indices:  # index_add_ along any dim but the first takes several times as long as all three of these
            scatter(tensor, indices, apply(tensor, indices).add_(values))
        else:
            tensor.add_(values)
