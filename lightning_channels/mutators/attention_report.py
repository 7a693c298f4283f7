"""Heads of a model's attentions and their size, at full width and now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_channels.tracing import ModuleGraph
from lightning_channels.tracing.attentions import find_attentions
from lightning_channels.units import MutableChannelUnit

__all__ = ["AttentionReport", "AttentionUnits", "attention_units"]


@dataclass(frozen=True, slots=True)
class AttentionReport:
    """One attention.

    Attributes:
        module: Dotted name of the module that attends.
        heads: Number of heads.
        head_dim: Size of each: of its queries, where keys and values have another.
        active_heads: Number of heads at the current choices.
        active_head_dim: Their size at the current choices.
    """

    module: str
    heads: int
    head_dim: int
    active_heads: int
    active_head_dim: int


_Place = tuple[MutableChannelUnit, int]


@dataclass(frozen=True, slots=True)
class AttentionUnits:
    """The unit and channel that decide about each head of an attention, or about each place in its heads.

    Attributes:
        module: Dotted name of the module that attends.
        heads: For each head; as many ``None`` where nothing decides.
        dims: For each place.
    """

    module: str
    heads: tuple[_Place | None, ...]
    dims: tuple[_Place | None, ...]

    def report(self) -> AttentionReport:
        """Counts at the current choices."""
        return AttentionReport(self.module, len(self.heads), len(self.dims), _active(self.heads), _active(self.dims))


def _active(places: Sequence[_Place | None]) -> int:
    return sum(place is None or bool(place[0].mutable_channel.current_mask[place[1]]) for place in places)


def attention_units(graph: ModuleGraph, units: Sequence[MutableChannelUnit]) -> tuple[AttentionUnits, ...]:
    """The attentions of a traced model.

    Args:
        graph: What the tracer found.
        units: One for each of its groups, in their order.
    """
    attentions = find_attentions(graph)
    if not attentions:
        return ()
    places = {
        label: (unit, channel)
        for unit, group in zip(units, graph.groups, strict=True)
        for channel, label in enumerate(group.classes.tolist())
    }

    def placed(classes: list[int] | None, count: int) -> tuple[_Place | None, ...]:
        return (None,) * count if classes is None else tuple(places.get(label) for label in classes)

    return tuple(
        AttentionUnits(a.module, placed(a.head_classes, a.heads), placed(a.dim_classes, a.dims)) for a in attentions
    )
