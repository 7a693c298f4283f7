"""Units: one choice for each set of channels that depend on each other."""

from lightning_channels.units.base import MutableChannelUnit
from lightning_channels.units.channel import Channel
from lightning_channels.units.group_fisher import GroupFisherChannelUnit
from lightning_channels.units.one_shot import OneShotMutableChannelUnit
from lightning_channels.units.ranked import L1MutableChannelUnit, RankedMutableChannelUnit
from lightning_channels.units.rounding import make_divisible
from lightning_channels.units.sequential import SequentialMutableChannelUnit
from lightning_channels.units.slimmable import SlimmableChannelUnit

__all__ = [
    "Channel",
    "GroupFisherChannelUnit",
    "L1MutableChannelUnit",
    "MutableChannelUnit",
    "OneShotMutableChannelUnit",
    "RankedMutableChannelUnit",
    "SequentialMutableChannelUnit",
    "SlimmableChannelUnit",
    "make_divisible",
]
