"""Whether a target can be reached, and if not, what keeps it from that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_channels.errors import LimitError
from lightning_channels.pruning.bounds import Bounds
from lightning_channels.pruning.targets import Limits, readable
from lightning_channels.resources import Resources

__all__ = ["check_reachable", "narrowest"]

_NAMED = 3


def narrowest(bounds: Sequence[Bounds], now: Tensor) -> Tensor:
    """The fewest channels that each unit may end with.

    Args:
        bounds: Of every unit.
        now: The units' present numbers, in the same order.
    """
    return torch.tensor([bound.lowest(int(number)) for bound, number in zip(bounds, now, strict=True)])


def check_reachable(resources: Resources, bounds: Sequence[Bounds], now: Tensor, limits: Limits) -> None:
    """Refuse limits that the narrowest net of all is over.

    Args:
        resources: What choices cost.
        bounds: Of every unit, in the order of ``resources.units``.
        now: The units' present numbers.
        limits: What is to be reached.

    Raises:
        LimitError: With the least that is left of each such resource, and the bounds that hold most of it.
    """
    least = narrowest(bounds, now)
    left = {name: float(value) for name, value in resources.measure(least).items()}
    for name, limit in limits.amounts.items():
        if left[name] > limit:
            total = float(resources.totals[name])
            raise LimitError(
                f"the target of {readable(limit)} {name} can't be reached: with every unit at its narrowest, "
                f"{readable(left[name])} of {readable(total)} are left ({left[name] / total:.1%}). "
                f"{_advice(resources, bounds, least, name, left[name])} {readable(_rounded_up(left[name]))} or more"
            )


def _advice(resources: Resources, bounds: Sequence[Bounds], least: Tensor, name: str, left: float) -> str:
    freed = least.repeat(len(bounds), 1)
    for at, bound in enumerate(bounds):
        freed[at, at] = min(int(least[at]), bound.unit.groups)
    saved = left - resources.measure(freed)[name]
    holding = [at for at in saved.sort(descending=True, stable=True).indices.tolist() if float(saved[at]) > 0]
    if not holding:
        return "The rest is in channels that no unit can drop; ask for"
    named = "; ".join(_why(bounds[at], int(least[at])) for at in holding[:_NAMED])
    more = f"; and {len(holding) - _NAMED} more" if len(holding) > _NAMED else ""
    return f"Most is held by {named}{more}. Allow these to be narrower, or ask for"


def _rounded_up(value: float) -> float:
    """The next number of four digits, so that what a message advises is enough."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return math.ceil(value / unit) * unit


def _why(bound: Bounds, least: int) -> str:
    what = f"{bound.unit.name!r} at {least} of {bound.unit.num_channels}"
    if bound.ignored:
        return f"{what} (ignored)"
    if bound.given is not None:
        return f"{what} (given by the scope)"
    if least > int(bound.allowed[0]):
        return f"{what} (its floor)"
    return f"{what} (the fewest that its type and divisor allow)"
