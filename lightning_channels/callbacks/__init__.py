"""Lightning callbacks; the only part of the package that imports Lightning."""

from lightning_channels.callbacks._example import example_of
from lightning_channels.callbacks._newest import newest_checkpoint
from lightning_channels.callbacks._packages import is_lightnings, overrides
from lightning_channels.callbacks._stored import Stored, read_checkpoint
from lightning_channels.callbacks.evaluator import SubnetEvaluator
from lightning_channels.callbacks.pruning import ChannelPruning

__all__ = [
    "ChannelPruning",
    "Stored",
    "SubnetEvaluator",
    "example_of",
    "is_lightnings",
    "newest_checkpoint",
    "overrides",
    "read_checkpoint",
]
