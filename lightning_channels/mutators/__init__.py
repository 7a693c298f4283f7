"""Mutators: all units of one model."""

from lightning_channels.mutators.channel_mutator import ChannelMutator, find_mutator

__all__ = ["ChannelMutator", "find_mutator"]
