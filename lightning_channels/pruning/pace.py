"""Whether a pruning comes to its target within a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from lightning_channels.errors import ConfigError
from lightning_channels.pruning.bounds import Bounds
from lightning_channels.pruning.events import said
from lightning_channels.pruning.schedules import GreedySchedule
from lightning_channels.pruning.targets import Limits, readable
from lightning_channels.pruning.timing import Span
from lightning_channels.resources import Resources

__all__ = ["check_pace", "still_to_do"]

_HURRY = (
    "Train longer, drop more at a time (the schedule's channels), take a shorter interval, or give an end_step, before "
    "which what is left goes at once"
)
"""What to do about a greedy pruning that is too slow."""


def check_pace(
    resources: Resources,
    bounds: Sequence[Bounds],
    limits: Limits,
    schedule: GreedySchedule,
    span: Span,
    total_steps: float | None,
) -> None:
    """Refuse a schedule that would be at its end after the training, whichever channels it drops.

    That of the others may still be so; nobody knows before.

    Args:
        resources: What choices cost.
        bounds: Of every unit, in the order of ``resources.units``.
        limits: What is to be reached.
        schedule: How many channels go at each interval.
        span: When.
        total_steps: How many optimizer steps the training has; None, -1 or infinity if it has no end.

    Raises:
        ConfigError: With how often channels could be dropped, and how often they would have to be.
    """
    if span.end is not None or total_steps is None or total_steps == -1 or math.isinf(total_steps):
        return
    every = "step" if span.interval == 1 else f"{span.interval} steps"
    times = max(0, int(total_steps) - 1 - span.start) // span.interval
    for name, limit in limits.amounts.items():
        # a sum of products of widths saves most for a channel while the others are wide; milliseconds may jump
        needed = 0 if name == "latency_ms" else math.ceil(_fewest(resources, bounds, name, limit) / schedule.channels)
        if needed > times:
            raise ConfigError(
                f"the greedy schedule can't reach the target of {readable(limit)} {name} in {int(total_steps)} steps: "
                f"it drops channels {times} times ({schedule.channels} at every {every}), and would have to "
                f"{needed} times at least. {_HURRY}"
            )


def still_to_do(resources: Resources, limits: Limits, schedule: Callable[[float], float]) -> str:
    """What a pruning has not reached, and what to change.

    Args:
        resources: What choices cost.
        limits: What was to be reached.
        schedule: How.
    """
    advice = _HURRY if isinstance(schedule, GreedySchedule) else "Train longer, or give an earlier end_step"
    if not limits.amounts:
        return f"not all units have the widths that the scope gives. {advice}"
    left, totals = resources.measure(resources.current), resources.totals
    reached = ", ".join(said(name, float(left[name]), totals[name]) for name in limits.amounts)
    target = ", ".join(f"{name} {readable(limit)}" for name, limit in limits.amounts.items())
    return f"{reached}, and the target is {target}. {advice}"


def _fewest(resources: Resources, bounds: Sequence[Bounds], name: str, limit: float) -> int:
    """A number of steps down below which no choice of them comes to the limit."""
    now = resources.current
    saved = []
    for at, bound in enumerate(bounds):
        if bound.moves:
            allowed = torch.tensor(bound.up_to(bound.lowest(int(now[at])), int(now[at])))
            rows = now.repeat(len(allowed), 1)
            rows[:, at] = allowed
            saved.append(resources.measure(rows)[name].diff())
    over = float(resources.measure(now)[name]) - limit
    most = torch.cat([torch.zeros(1, dtype=torch.float64), *saved]).sort(descending=True).values.cumsum(0)
    return 0 if over <= 0 else int((most < over * (1 - 1e-9)).sum()) + 1
