"""Lightning callbacks; the only part of the package that imports Lightning."""

from lightning_channels.callbacks._newest import newest_checkpoint
from lightning_channels.callbacks.evaluator import SubnetEvaluator
from lightning_channels.callbacks.pruning import ChannelPruning

__all__ = ["ChannelPruning", "SubnetEvaluator", "newest_checkpoint"]
