"""Pruning to a target: how much may be left, which channels go, and when."""

from lightning_channels.pruning.events import PruneEvent
from lightning_channels.pruning.pruner import Pruner
from lightning_channels.pruning.schedules import (
    CubicSchedule,
    GreedySchedule,
    LinearSchedule,
    OneShotSchedule,
    Schedule,
    ScheduleLike,
    build_schedule,
)
from lightning_channels.pruning.targets import Target, TargetLike, parse_target

__all__ = [
    "CubicSchedule",
    "GreedySchedule",
    "LinearSchedule",
    "OneShotSchedule",
    "PruneEvent",
    "Pruner",
    "Schedule",
    "ScheduleLike",
    "Target",
    "TargetLike",
    "build_schedule",
    "parse_target",
]
