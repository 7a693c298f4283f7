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

__all__ = [
    "BaseMutableChannel",
    "DerivedMutableChannel",
    "IndexSelection",
    "MutableChannelContainer",
    "Selection",
    "SequentialMutableChannel",
    "SimpleMutableChannel",
    "SquentialMutableChannel",
    "batch_update",
]
