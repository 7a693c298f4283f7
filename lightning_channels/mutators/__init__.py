"""Mutators: all units of one model."""

from lightning_channels.mutators.channel_mutator import ChannelMutator, find_mutator
from lightning_channels.mutators.group_fisher import GroupFisherChannelMutator
from lightning_channels.mutators.report import Report, UnitReport
from lightning_channels.mutators.slimmable import SlimmableChannelMutator
from lightning_channels.mutators.supernet import supernet_hash

__all__ = [
    "ChannelMutator",
    "GroupFisherChannelMutator",
    "Report",
    "SlimmableChannelMutator",
    "UnitReport",
    "find_mutator",
    "supernet_hash",
]
