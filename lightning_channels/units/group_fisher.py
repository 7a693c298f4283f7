"""The unit of GroupFisher."""

from __future__ import annotations

from lightning_channels.registry import UNITS
from lightning_channels.units.sequential import SequentialMutableChannelUnit

__all__ = ["GroupFisherChannelUnit"]


@UNITS.register(aliases=("group_fisher",))
class GroupFisherChannelUnit(SequentialMutableChannelUnit):
    """Loses one channel after the other, the least important first.

    It is any number of channels wide. Which go is for the criterion to say, and the pruner sets them: see
    :class:`~lightning_channels.GroupFisherChannelMutator`. With a ``divisor`` as many go at once as it takes.

    Args:
        num_channels: Number of channels.
        choice_mode: Whether choices are numbers of channels (``"number"``) or shares of them (``"ratio"``).
        divisor: Choices are rounded to a multiple of it; the full width is always allowed.
        min_value: Fewest channels.
        min_ratio: Rounding loses at most ``1 - min_ratio`` of the channels.

    Raises:
        ConfigError: If an argument is not allowed.
    """
