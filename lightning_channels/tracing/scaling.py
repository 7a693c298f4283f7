"""Factors that code computes from a number of channels: ``q * (c // heads) ** -0.5``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lightning_channels.tracing.program import Op, Ref

if TYPE_CHECKING:
    from lightning_channels.tracing.replay import Replay
    from lightning_channels.tracing.walk import Walk

__all__ = ["has_scales", "rescaled"]

_SCALING = {"mul", "mul_", "div", "div_"}
_POWERS = (-0.5, 0.5, -0.25, 0.25)


def has_scales(walk: Walk) -> bool:
    """Whether a factor in a program may have been computed from a number of channels."""
    for op in walk.program.ops:
        if op.name in _SCALING and isinstance(op.args[0], Ref) and isinstance(op.args[1], float):
            shape, maps = walk.shape(op.args[0]), walk.maps.get(op.args[0].id, ())
            labelled = {dim for labels in maps for dim, n in enumerate(labels.shape) if n > 1}
            if any(_power(op.args[1], shape[dim]) is not None for dim in labelled):
                return True
    return False


def rescaled(replay: Replay, op: Op, args: list[Any]) -> list[Any]:
    """An operator's arguments with the factor that code computes where there are fewer channels."""
    if op.name not in _SCALING or not isinstance(op.args[0], Ref) or not isinstance(op.args[1], float):
        return args
    for dim, size in enumerate(replay.program.shapes[op.args[0].id]):
        mask = replay.mask(op.args[0], dim)
        power = None if mask is None else _power(op.args[1], size)
        if mask is not None and power is not None:
            return [args[0], float(int(mask.sum()) ** power), *args[2:]]
    return args


def _power(factor: float, size: int) -> float | None:
    return next((p for p in _POWERS if size > 1 and math.isclose(factor, size**p, rel_tol=1e-6)), None)
