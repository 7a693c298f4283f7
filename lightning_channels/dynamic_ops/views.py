"""Views of parameters and buffers, kept while the choice stands.

Narrowing a tensor is cheap, but a net does it hundreds of times in a forward pass: on mobilenet_v2 it took a tenth of a
training step. A view that is kept costs a look into a dict. Autograd may go through it in any number of backward
passes: its node saves no tensor, and is made again by autograd itself after the parameter was updated in place.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_channels.dynamic_ops.slicing import PLAIN, prefix

__all__ = ["Views", "narrowed"]


class Views(dict[str, tuple[Tensor, list[int], bool, Tensor]]):
    """The last view of each tensor of a dynamic op, and what it was made for: tensor, size and whether it trains.

    Copies and pickles of it are empty: a copied model has tensors of its own.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[type[Views], tuple[()]]:
        return Views, ()


class _Holder(Protocol):
    views: Views | None


def narrowed(holder: _Holder, name: str, tensor: Tensor, size: list[int]) -> Tensor:
    """The first ``size[dim]`` entries along each dim of a tensor, as a view.

    Args:
        holder: Of the views of a dynamic op; it gets some with the first that is kept.
        name: The tensor's.
        tensor: The full tensor.
        size: Of the view.
    """
    # a view made without autograd could not be trained on, nor the other way round; compiled code keeps none
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return prefix(tensor, size)
    views = holder.views
    known = None if views is None else views.get(name)
    if known is not None:
        base, made_for, trained, part = known
        if (
            base is tensor
            and made_for == size
            and trained == tensor.requires_grad  # the view's own follows the tensor's, though its node does not
            # data may be replaced, by a move or by an average of weights
            and part.data_ptr() == tensor.data_ptr()
            and part.stride() == tensor.stride()
        ):
            return part
    part = prefix(tensor, size)
    if _lasts(tensor, part):
        if views is None:
            views = holder.views = Views()
        views[name] = tensor, size, tensor.requires_grad, part
    elif views is not None:
        views.pop(name, None)
    return part


def _lasts(tensor: Tensor, part: Tensor) -> bool:
    """Whether a view can be used again: not where a mode or a transform makes tensors of its own."""
    return (
        type(tensor) in PLAIN
        and type(part) is Tensor
        and tensor.is_leaf
        and (tensor.is_cpu or tensor.is_cuda)
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )
