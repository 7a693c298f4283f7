"""Integers that a module keeps about its channels: the sizes of its views, splits and slices (``self.num_heads``).

A key is the attribute's name, or, for an entry of a list or tuple, name and place: ``"splits[0]"``. A norm without
parameters has no tensor that would say which channels it counts; its side is a key too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

from torch import nn

from lightning_channels._plain import is_int
from lightning_channels.dynamic_ops.spec import sides, spec_of

__all__ = ["attribute_sizes", "key_of", "sides_without_tensors", "split_key", "with_sizes"]

_SEQUENCES = (list, tuple)


def key_of(name: str, entry: int | None) -> str:
    """The key of an attribute, or of an entry of one."""
    return name if entry is None else f"{name}[{entry}]"


def split_key(key: str) -> tuple[str, int | None]:
    """The attribute's name and the place in it."""
    name, bracket, entry = key.removesuffix("]").partition("[")
    return name, int(entry) if bracket and entry.isdecimal() else None


def attribute_sizes(module: nn.Module) -> dict[str, int]:
    """Every integer of a module that could count channels, by key.

    Left out are those that the table of dynamic ops already knows, and what torch's own modules keep (a kernel's size
    is none of a view).
    """
    taken = _taken(module)
    return sides_without_tensors(module) | {
        key: value
        for name, held in module.__dict__.items()
        if name not in taken and not name.startswith("_")
        for key, value in _integers(name, held)
        if value > 1
    }


def sides_without_tensors(module: nn.Module) -> dict[str, int]:
    """The sides of a module of the table that has none of its tensors, such as a layer norm that isn't affine."""
    spec = spec_of(module)
    if spec is None:
        return {}
    own = (tensors.get(name) for name in spec.tensors for tensors in (module._parameters, module._buffers))
    if any(tensor is not None for tensor in own):
        return {}
    return {side: size for side, size in sides(module).items() if size > 1}


def _integers(name: str, held: Any) -> Iterator[tuple[str, int]]:
    if is_int(held):
        yield name, held
    elif type(held) in _SEQUENCES and held and all(is_int(value) for value in held):
        for entry, value in enumerate(held):
            yield key_of(name, entry), value


def _taken(module: nn.Module) -> Set[str]:
    spec = spec_of(module)
    taken = _constants(type(module))
    return taken if spec is None else {*taken, *spec.sizes, *([spec.groups.attribute] if spec.groups else [])}


_CONSTANTS: dict[type, frozenset[str]] = {}


def _constants(cls: type) -> frozenset[str]:
    """What torch's own modules keep; each class is looked at once."""
    if cls not in _CONSTANTS:  # nn.Unflatten's sizes are those of a view
        bases = (base for base in cls.__mro__ if base.__module__.startswith("torch.") and base is not nn.Unflatten)
        _CONSTANTS[cls] = frozenset(name for base in bases for name in base.__dict__.get("__constants__", ()))
    return _CONSTANTS[cls]


def with_sizes(held: Any, sizes: Mapping[int | None, int]) -> Any:
    """An attribute's value with other numbers: ``{None: n}`` for an integer, ``{place: n}`` for a sequence."""
    if None in sizes:
        return sizes[None]
    return type(held)(sizes.get(place, value) for place, value in enumerate(held))
