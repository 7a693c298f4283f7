"""How a pruning proceeds: which share of the way to the target has been gone, at which part of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lightning_channels._plain import is_number
from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutables.selection import positive
from lightning_channels.registry import SCHEDULES

__all__ = [
    "CubicSchedule",
    "GreedySchedule",
    "LinearSchedule",
    "OneShotSchedule",
    "Schedule",
    "ScheduleLike",
    "build_schedule",
    "share_at",
]


@runtime_checkable
class Schedule(Protocol):
    """What a schedule does; any function of one number is one.

    Example:
        >>> from lightning_channels.registry import SCHEDULES
        >>> @SCHEDULES.register("quadratic")
        ... class Quadratic:
        ...     def __call__(self, progress):
        ...         return progress**2
    """

    def __call__(self, progress: float) -> float:
        """The share of the way to the target.

        Args:
            progress: Part of the time from start step to end step, in [0, 1].

        Returns:
            A share in [0, 1]; 1 at the end.
        """
        ...


@SCHEDULES.register("one_shot")
class OneShotSchedule:
    """All at once, at the start step."""

    at_once = True

    def __call__(self, progress: float) -> float:
        """The whole way."""
        return 1.0


@SCHEDULES.register("linear")
class LinearSchedule:
    """As much at every step."""

    def __call__(self, progress: float) -> float:
        """The part of the time."""
        return progress


@SCHEDULES.register("cubic")
class CubicSchedule:
    """Much at first and ever less, as in Zhu and Gupta, "To prune, or not to prune" (2017).

    What is left goes from :math:`s_i` to :math:`s_f` as :math:`s_f + (s_i - s_f)(1 - t)^3`.
    """

    def __call__(self, progress: float) -> float:
        """1 - (1 - t)³."""
        return 1.0 - (1.0 - progress) ** 3


@SCHEDULES.register("greedy")
class GreedySchedule:
    """One channel at a time, the one of the lowest score for what it costs, until the target is reached.

    The pruning of Liu et al., "Group Fisher Pruning for Practical Network Compression" (ICML 2021): at every interval
    the channel goes whose score, divided by what the net saves without it, is the lowest. Where a unit's divisor or
    groups don't allow to drop a single one, as few as they allow go together.

    Args:
        per: The resource by which scores are divided: ``"flops"``, ``"activations"`` for memory, or any other that is
            counted; None to compare the scores themselves.
        channels: How many are dropped at each interval, one after the other.

    Raises:
        ConfigError: If ``channels`` is no whole number of at least 1.
    """

    def __init__(self, per: str | None = "flops", channels: int = 1) -> None:
        if per is not None and not isinstance(per, str):
            raise ConfigError(f"the greedy schedule's per must be the name of a resource, or None, got {per!r}")
        self.per = per
        self.channels = positive(channels, "the greedy schedule's channels")

    def check(self, known: Iterable[str]) -> None:
        """Refuse to divide by what isn't counted.

        Raises:
            ConfigError: If ``per`` is none of these resources.
        """
        known = list(known)
        if self.per is not None and self.per not in known:
            hint = did_you_mean(self.per, known) or "."
            raise ConfigError(
                f"the greedy schedule divides by an unknown resource {self.per!r}{hint} Known: {', '.join(known)}"
            )

    def __call__(self, progress: float) -> float:
        """The whole way: the end is reached when the target is."""
        return 1.0


ScheduleLike: TypeAlias = "str | Mapping[str, Any] | type[Schedule] | Callable[[float], float]"

_CHECKED = 100


def build_schedule(value: ScheduleLike) -> Callable[[float], float]:
    """Make a schedule of what a user wrote.

    Args:
        value: A registered name, a dict with ``type`` and arguments, a schedule, its class, or a function progress →
            share, both in [0, 1].

    Returns:
        The schedule.

    Raises:
        ConfigError: If the name is unknown, an argument doesn't fit, or if the schedule leaves [0, 1] or doesn't end at
            1.

    Example:
        >>> build_schedule("cubic")(0.5)
        0.875
    """
    if isinstance(value, (str, Mapping)):
        schedule: Any = SCHEDULES.build(SCHEDULES.config_of(value, "schedule"))
    else:
        schedule = value() if isinstance(value, type) else value
    if not callable(schedule):
        raise ConfigError(
            f"a schedule must be a name, a dict with 'type' or a function of the progress, got {value!r}. "
            f"Known names: {', '.join(SCHEDULES.names())}"
        )
    for at in range(_CHECKED + 1):
        share = share_at(schedule, at / _CHECKED)
    if share != 1:
        raise ConfigError(f"the schedule {_name(schedule)} never reaches the target: it ends at {share!r}, not at 1")
    return schedule  # type: ignore[no-any-return]


def share_at(schedule: Callable[[float], float], progress: float) -> float:
    """What a schedule says, checked.

    Raises:
        ConfigError: If it isn't a number in [0, 1].
    """
    share: object = schedule(progress)
    if not is_number(share) or not 0 <= share <= 1:
        raise ConfigError(
            f"the schedule {_name(schedule)} must return a number in [0, 1], got {share!r} at {progress:g}"
        )
    return float(share)


def _name(schedule: object) -> str:
    own = getattr(schedule, "__name__", type(schedule).__name__)
    return SCHEDULES.name_of(type(schedule)) or str(own)
