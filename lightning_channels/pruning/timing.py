"""When a pruning does something."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError
from lightning_channels.mutables.selection import positive
from lightning_channels.pruning.schedules import GreedySchedule, build_schedule

__all__ = ["Span", "Timing", "read_schedule"]

_KEYS = ("start_step", "end_step", "interval")


@dataclass(frozen=True)
class Span:
    """A pruning's steps, once the length of the training is known.

    Args:
        start: First step.
        end: Last step; None where it goes on until the target is reached.
        interval: How many steps lie between two events.
        first: How many intervals after the start the first event comes.
    """

    start: int
    end: int | None
    interval: int
    first: int = 0

    def due(self, step: int, done: int | None) -> int | None:
        """The last step up to this one at which something was to happen, unless that was ``done``."""
        if self.end is not None and step >= self.end:
            point = self.end
        else:
            intervals = (step - self.start) // self.interval
            if intervals < self.first:
                return None
            point = self.start + intervals * self.interval
        return point if done is None or point > done else None

    def ends_at(self, step: int) -> bool:
        """Whether a step is the last or later."""
        return self.end is not None and step >= self.end

    def progress(self, step: int) -> float:
        """The part of the time that has gone at a step."""
        if self.end is None or step >= self.end:
            return 1.0
        return (step - self.start) / (self.end - self.start)


@dataclass(frozen=True)
class Timing:
    """When a pruning starts, ends and does something in between, as a user says it.

    Args:
        start_step: The first step, counted in optimizer steps.
        end_step: The step at which the target is reached.
        interval: Something happens at every so many steps.
    """

    start_step: int = 0
    end_step: int | None = None
    interval: int = 1

    def __post_init__(self) -> None:
        if not is_int(self.start_step) or self.start_step < 0:
            raise ConfigError(f"start_step must be a whole number of at least 0, got {self.start_step!r}")
        if self.end_step is not None and (not is_int(self.end_step) or self.end_step < 0):
            raise ConfigError(f"end_step must be a whole number of at least 0, or None, got {self.end_step!r}")
        positive(self.interval, "interval")
        if self.end_step is not None and self.end_step < self.start_step:
            raise ConfigError(f"the pruning starts at step {self.start_step}, and ends before, at step {self.end_step}")

    def trial(self, schedule: Callable[[float], float], total_steps: int | None) -> float | None:
        """As many steps as :meth:`span` needs, for a training of which only the first ones are tried.

        Args:
            schedule: The schedule.
            total_steps: How many are tried; None where nobody knows.
        """
        if isinstance(schedule, GreedySchedule):
            return math.inf
        return None if total_steps is None else max(total_steps, self.start_step + 1, (self.end_step or 0) + 1)

    def span(self, schedule: Callable[[float], float], total_steps: float | None) -> Span:
        """The steps for a training of so many; None, -1 or infinity for one without an end.

        Raises:
            ConfigError: If it would start or end after the training, or if there is no telling when it ends.
        """
        endless = total_steps is None or total_steps == -1 or math.isinf(total_steps)
        total = None if endless else int(total_steps or 0)
        for name, step in (("starts", self.start_step), ("ends", self.end_step)):
            if total is not None and step is not None and step >= max(1, total):
                raise ConfigError(
                    f"the pruning {name} at step {step}, and the training has {total} steps, 0 to {total - 1}; train "
                    f"longer, or give an earlier {name.removesuffix('s')}_step"
                )
        if isinstance(schedule, GreedySchedule):
            return Span(self.start_step, self.end_step, self.interval, first=1)
        if getattr(schedule, "at_once", False):
            return Span(self.start_step, self.start_step, self.interval)
        end = self.end_step
        if end is None:
            if total is None:
                raise ConfigError(
                    "the training has no last step, so the schedule needs an end_step; give one, or limit the training"
                )
            end = max(self.start_step, total // 2)
        return Span(self.start_step, end, self.interval)


def read_schedule(
    schedule: Any, start_step: int, end_step: int | None, interval: int
) -> tuple[Callable[[float], float], Timing]:
    """A schedule and its steps, which may stand in the schedule's dict as well.

    Raises:
        ConfigError: If one of them isn't allowed.
    """
    steps: dict[str, Any] = {"start_step": start_step, "end_step": end_step, "interval": interval}
    if isinstance(schedule, Mapping):
        steps.update({key: schedule[key] for key in _KEYS if key in schedule})
        schedule = {key: value for key, value in schedule.items() if key not in _KEYS}
    built = build_schedule(schedule)
    if steps["end_step"] is not None and getattr(built, "at_once", False):
        raise ConfigError("the schedule prunes at once, at its start_step, and takes no end_step; leave it out")
    return built, Timing(**steps)
