"""The mutator of GroupFisher: what prunes its units, where nothing else is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lightning_channels.mutators.channel_mutator import ChannelMutator
from lightning_channels.registry import MUTATORS

__all__ = ["GroupFisherChannelMutator"]


@MUTATORS.register(aliases=("group_fisher",))
class GroupFisherChannelMutator(ChannelMutator):
    r"""Steers a model that loses one channel at a time, that which matters least for what it costs.

    Liu et al., "Group Fisher Pruning for Practical Network Compression", ICML 2021. A channel's importance is that of a
    gate :math:`m_c` on it: over the samples :math:`n` seen since the last channel went, and with all layers :math:`X`
    that read the channel,

    .. math:: s_c = \sum_n \Big(\sum_X \frac{\partial L_n}{\partial m_{X,c}}\Big)^2 \Big/ \Delta\text{FLOPs}_c ,

    and every ten optimizer steps the channel with the smallest goes.

    Args:
        channel_unit_cfg: As for :class:`ChannelMutator`; units of the type ``GroupFisherChannelUnit`` by default.
        parse_cfg: As for :class:`ChannelMutator`.

    Attributes:
        recipe: The arguments of :class:`~lightning_channels.ChannelPruning` that make the algorithm of it: its
            ``criterion`` and ``schedule``, where the user gives none.

    Raises:
        ConfigError: As for :class:`ChannelMutator`.

    Example:
        >>> GroupFisherChannelMutator().recipe["criterion"]
        {'type': 'fisher', 'normalizer': None}
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "criterion": {"type": "fisher", "normalizer": None},
        "schedule": {"type": "greedy", "per": "flops", "interval": 10},
    }

    def __init__(
        self,
        channel_unit_cfg: str | type | Mapping[str, Any] = "GroupFisherChannelUnit",
        parse_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(channel_unit_cfg, Mapping) and "type" not in channel_unit_cfg:
            channel_unit_cfg = {"type": "GroupFisherChannelUnit", **channel_unit_cfg}
        super().__init__(channel_unit_cfg, parse_cfg)
