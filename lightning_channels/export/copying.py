"""Copies of models: what ``copy.deepcopy`` gives, several times faster on modules of the ordinary kind."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from functools import cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import nn

from lightning_channels._modules import modules_of
from lightning_channels.dynamic_ops.factory import is_own_reducer

__all__ = ["copied"]

_ATOMS = frozenset(
    {bool, bytes, complex, float, int, range, str, type, type(None), FunctionType, BuiltinFunctionType}
    | {torch.device, torch.dtype, torch.memory_format}
)
"""Types of what deepcopy doesn't copy either."""


def copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """``copy.deepcopy(model, memo)``.

    Modules without a way of their own to be copied are made first, all of them, and then filled; what they hold is left
    to deepcopy, but for numbers, names and dicts, which are most of it.
    """
    made: list[tuple[nn.Module, Any]] = []
    for module in modules_of(model):
        cls: Any = type(module)
        if id(module) not in memo and _is_ordinary(cls):
            memo[id(module)] = cls.__new__(cls)
            made.append((module, memo[id(module)]))
    for module, new in reversed(made):  # inner ones first, since outer ones may look into them
        state = module.__getstate__()  # without what Module.compile() made, which would call the original
        new.__setstate__({name: _copied(value, memo) for name, value in state.items()})
    return copy.deepcopy(model, memo)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind is dict or kind is OrderedDict:
        memo[id(value)] = new = kind()
        if value:
            new.update({_copied(key, memo): _copied(item, memo) for key, item in value.items()})
        return new
    if kind is set and not value:
        memo[id(value)] = empty = set[Any]()
        return empty
    return copy.deepcopy(value, memo)


@cache
def _is_ordinary(cls: type[nn.Module]) -> bool:
    """Whether copies of a class's objects are empty objects that get a copy of the others' attributes."""
    for base in cls.__mro__:
        own = vars(base)
        if "__deepcopy__" in own:
            return False
        if base not in (object, nn.Module) and own.keys() & {"__new__", "__reduce__", "__getstate__"}:
            return False
        if base is not object and "__reduce_ex__" in own and not is_own_reducer(own["__reduce_ex__"]):
            return False
    return not copyreg._slotnames(cls)  # type: ignore[attr-defined]
