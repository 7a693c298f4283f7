"""How many channels are active, and which: mutables, derived mutables, and the containers that tile a module's side."""

from lightning_channels.mutables.base import (
    BaseMutableChannel,
    SequentialMutableChannel,
    SimpleMutableChannel,
    SquentialMutableChannel,
    batch_update,
)
from lightning_channels.mutables.container import MutableChannelContainer
from lightning_channels.mutables.derived import DerivedMutableChannel
from lightning_channels.mutables.selection import IndexSelection, Selection
from lightning_channels.mutables.slimmable import SlimmableMutableChannel

__all__ = [
    "BaseMutableChannel",
    "DerivedMutableChannel",
    "IndexSelection",
    "MutableChannelContainer",
    "Selection",
    "SequentialMutableChannel",
    "SimpleMutableChannel",
    "SlimmableMutableChannel",
    "SquentialMutableChannel",
    "batch_update",
]
