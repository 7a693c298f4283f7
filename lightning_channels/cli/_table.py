"""Subnets and what they are worth, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from lightning_channels.resources.tables import aligned, short

__all__ = ["Row", "cost", "subnet_table"]

_COSTS = {"macs": "MACs", "params": "parameters", "latency_ms": "latency"}


Row: TypeAlias = tuple[str, Mapping[str, float], Mapping[str, float]]
"""Name, resources, metrics."""


def cost(name: str, value: float) -> str:
    """An amount of a resource, for people."""
    return f"{value:.3g} ms" if name == "latency_ms" else short(value)


def subnet_table(rows: Sequence[Row], extra: Sequence[str] = (), what: str = "subnet") -> str:
    """A line for each subnet.

    Args:
        rows: What it tells of each.
        extra: Other resources to show.
        what: What the names are of.
    """
    costs = [name for name in dict.fromkeys([*_COSTS, *extra]) if any(name in resources for _, resources, _ in rows)]
    metrics = list(dict.fromkeys(name for _, _, found in rows for name in found))
    head = [what, *(_COSTS.get(name, name) for name in costs), *metrics]
    cells = [
        [
            name,
            *(cost(key, resources[key]) for key in costs),
            *(f"{found[key]:.4f}" if key in found else "-" for key in metrics),
        ]
        for name, resources, found in rows
    ]
    lines = [head, *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(aligned(lines, widths))
