"""What of a dynamic op follows which of its sides: written down once for all ops that are alike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning_channels.dynamic_ops.attributes import split_key

__all__ = ["Plan", "plan_of"]

_Rows = tuple[tuple[int, str, int], ...]
_Key = tuple[tuple[str, ...], tuple[tuple[str, _Rows], ...], tuple[tuple[str, tuple[int, ...]], ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The sides of a dynamic op, by place, and what follows them. Copies and pickles of it are the same object.

    Attributes:
        key: What :func:`plan_of` made it from.
        sides: Their names.
        places: The place of each.
        tensors: For each tensor (dim, place, groups) of each dim with channels; see
            :func:`~lightning_channels.dynamic_ops.spec.layout`.
        bare: Those of them that are in no table, with their dims.
        attributes: For each integer attribute that follows channels its place, by the entry of a list or tuple.
    """

    key: _Key
    sides: tuple[str, ...]
    places: dict[str, int]
    tensors: dict[str, tuple[tuple[int, int, int], ...]]
    bare: dict[str, tuple[int, ...]]
    attributes: dict[str, dict[int | None, int]]

    def __reduce__(self) -> tuple[Callable[..., Plan], _Key]:
        return plan_of, self.key

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        return self


@functools.cache
def plan_of(
    sides: tuple[str, ...],
    rows: tuple[tuple[str, _Rows], ...] = (),
    bare: tuple[tuple[str, tuple[int, ...]], ...] = (),
    attributes: tuple[str, ...] = (),
) -> Plan:
    """The plan of all dynamic ops that are alike in this.

    Args:
        sides: Their names.
        rows: For each tensor (dim, side, groups) of each dim with channels.
        bare: Those tensors that are in no table, with their dims.
        attributes: Keys of the integer attributes that follow channels; each is a side.
    """
    places = {side: place for place, side in enumerate(sides)}
    followers: dict[str, dict[int | None, int]] = {}
    for key in attributes:
        name, entry = split_key(key)
        followers.setdefault(name, {})[entry] = places[key]
    tensors = {name: tuple((dim, places[side], groups) for dim, side, groups in dims) for name, dims in rows}
    return Plan((sides, rows, bare, attributes), sides, places, tensors, dict(bare), followers)
