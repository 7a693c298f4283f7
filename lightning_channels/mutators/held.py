"""Setting choices for a while and putting back exactly what was active."""

from __future__ import annotations

from lightning_channels.mutables import batch_update
from lightning_channels.mutators.channel_mutator import ChannelMutator

__all__ = ["Held"]


class Held:
    """What is active now, to be put back later: choices, or arbitrary channels that were kept by hand."""

    def __init__(self, mutator: ChannelMutator) -> None:
        self._mutator = mutator
        mutables = [unit.mutable_channel for unit in mutator.mutable_units]
        self._held = [(mutable, mutable.snapshot()) for mutable in mutables]

    def put_back(self) -> None:
        """Activate the same channels again."""
        with batch_update():
            for mutable, snapshot in self._held:
                mutable.put_back(snapshot)
        self._mutator.widths_changed()
