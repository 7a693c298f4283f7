"""Units that one tracer found, held against what another recorded.

Autograd's graph tells which operators there were, and not the numbers that they were called with: it can't be run
again, and the proof of a unit is a run. So the units that were found in it are proven with the program that the forward
tracer records, where that finds the very same channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_channels.tracing import ModuleGraph
from lightning_channels.units import MutableChannelUnit

__all__ = ["agreeing"]


def agreeing(units: Iterable[MutableChannelUnit], graph: ModuleGraph) -> list[MutableChannelUnit]:
    """Refuse the units of which a graph says otherwise.

    Args:
        units: What was found without the graph; those that it doesn't have as well get a reason.
        graph: A program of the same model that can be run again.

    Returns:
        One unit for each of the graph's groups, in their order: its own, or one that can't change where it has none.
    """
    found = {_key(unit): unit for unit in units}
    aligned = []
    for group in graph.groups:
        twin = MutableChannelUnit.init_from_group(group, {})
        unit = found.pop(_key(twin), None)
        if unit is None:
            twin.reason = twin.reason or "its channels were not found together"
        elif unit.reason is None:
            unit.reason = twin.reason
            unit.exact, unit.inexact = unit.exact and twin.exact, unit.inexact or twin.inexact
        aligned.append(twin if unit is None else unit)
    for unit in found.values():
        if unit.is_mutable:
            unit.reason = "the model's operators, as they ran, join its channels with others or part them"
    return aligned


def _key(unit: MutableChannelUnit) -> tuple[Any, ...]:
    """Where a unit's channels are, and which of them go together."""
    return tuple(unit.output_related), tuple(unit.input_related), unit.groups
