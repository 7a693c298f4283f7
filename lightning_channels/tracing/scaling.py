"""Factors that code computes from a number of channels: ``q * (c // heads) ** -0.5``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lightning_channels.tracing.labels import varying
from lightning_channels.tracing.program import Op, Ref

if TYPE_CHECKING:
    from lightning_channels.tracing.replay import Replay
    from lightning_channels.tracing.walk import Walk

__all__ = ["has_scales", "rescaled"]

_SCALING = {"mul", "mul_", "div", "div_"}
_SAME = {"view", "_unsafe_view"}
_POWERS = (-0.5, 0.5, -0.25, 0.25)


def has_scales(walk: Walk) -> bool:
    """Whether a factor in a program may have been computed from a number of channels."""
    return any(_candidates(walk, op) for op in walk.program.ops)


def rescaled(replay: Replay, op: Op, args: list[Any]) -> list[Any]:
    """An operator's arguments with the factor that code computes where there are fewer channels."""
    for ref, dim, power in _candidates(replay.walk, op):
        mask = replay.mask(ref, dim)
        if mask is not None:
            return [args[0], float(int(mask.sum()) ** power), *args[2:]]
    return args


def _candidates(walk: Walk, op: Op) -> list[tuple[Ref, int, float]]:
    """(tensor, dim, power): the factor may be that power of the number of the dim's channels."""
    if op.name not in _SCALING or not isinstance(op.args[0], Ref) or not isinstance(op.args[1], float):
        return []
    found = []
    for ref in (op.args[0], *_multiplied(walk, op.args[0])):
        shape, maps = walk.shape(ref), walk.maps.get(ref.id, ())
        # heads come before the places in them, and it is these that code scales by, should they be as many
        for dim in sorted({dim for labels in maps for dim in varying(labels)}, reverse=True):
            power = _power(op.args[1], shape[dim])
            if power is not None:
                found.append((ref, dim, power))
    return found


def _multiplied(walk: Walk, ref: Ref) -> list[Ref]:
    """The queries of the product that a tensor is: scores have no channels any more."""
    maker = walk.maker(ref)
    while maker is not None and maker.name in _SAME:
        maker = walk.maker(maker.args[0])
    return [maker.args[0]] if maker is not None and maker.name == "bmm" else []


def _power(factor: float, size: int) -> float | None:
    return next((p for p in _POWERS if size > 1 and math.isclose(factor, size**p, rel_tol=1e-6)), None)
