"""The active part of every tensor of a prepared model, cut once each."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from lightning_channels._modules import modules_of
from lightning_channels.dynamic_ops import is_dynamic
from lightning_channels.dynamic_ops.convert import cut, selections_key
from lightning_channels.dynamic_ops.state import state_of

__all__ = ["active_tensors"]

Key = tuple[object, ...]


def active_tensors(model: nn.Module) -> Iterator[tuple[Tensor, Tensor, Key]]:
    """(tensor, its active part, key of its selections) for each that is narrow wherever the model has it, and alike.

    A tensor that is narrow in one module and full in another is left out: it has no one active part.
    """
    keys: dict[int, set[Key]] = {}
    first: dict[int, tuple[Tensor, nn.Module, str]] = {}
    for module in modules_of(model):
        narrow = state_of(module).plan.tensors if is_dynamic(module) else {}
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                key = selections_key(state_of(module).selections(name)) if name in narrow else ()
                keys.setdefault(id(tensor), set()).add(key)
                first.setdefault(id(tensor), (tensor, module, name))
    for identity, (tensor, module, name) in first.items():
        if len(keys[identity]) == 1:
            (key,) = keys[identity]
            if key:
                yield tensor, cut(tensor, state_of(module).selections(name)), key
