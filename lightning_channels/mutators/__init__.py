"""Mutators: all units of one model."""

from lightning_channels.mutators.channel_mutator import ChannelMutator, find_mutator
from lightning_channels.mutators.report import Report, UnitReport

__all__ = ["ChannelMutator", "Report", "UnitReport", "find_mutator"]
