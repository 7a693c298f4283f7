"""Sizes of heads that attention kernels like, where places in them may go."""

from __future__ import annotations

import inspect
from typing import Any

from lightning_channels.mutators.unit_config import UnitConfig
from lightning_channels.tracing import ModuleGraph
from lightning_channels.tracing.attentions import places_in_heads
from lightning_channels.tracing.grouping import Group

__all__ = ["HeadSizes"]

_MULTIPLE = 8
"""What fused kernels want of a head's size: 16 bytes in half precision."""


class HeadSizes:
    """Divisors of the units that decide about places in heads.

    A ``divisor`` of the default arguments counts within a head there, and is 8 if there is none; a unit's own is left
    as it is. Heads of a size that it doesn't divide, or of less than two of it, may have any.

    Args:
        graph: What the tracer found.
        config: What is said of the units.
    """

    def __init__(self, graph: ModuleGraph, config: UnitConfig) -> None:
        self._config = config
        takes_it = "divisor" in inspect.signature(config.unit_class).parameters
        self._places = places_in_heads(graph) if takes_it and graph.attention != "heads" else set()

    def arguments(self, group: Group, name: str) -> dict[str, Any]:
        """The divisor of a group's unit, counted over all heads, where it is of this kind."""
        own = (self._config.units.get(name) or {}).get("init_args") or {}
        if "divisor" in own or self._places.isdisjoint(group.classes.tolist()):
            return {}
        divisor = self._config.default_args.get("divisor", _MULTIPLE)
        size = group.num_channels // group.tile
        fits = type(divisor) is int and divisor > 0 and size % divisor == 0 and size >= 2 * divisor
        return {"divisor": divisor * group.tile} if fits else {}
