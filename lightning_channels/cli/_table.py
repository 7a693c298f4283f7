"""Subnets and what they are worth, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_channels.resources.tables import aligned, short

__all__ = ["subnet_table"]

_COSTS = {"macs": "MACs", "params": "parameters", "latency_ms": "latency"}


def subnet_table(
    rows: Sequence[tuple[str, Mapping[str, float], Mapping[str, float]]], extra: Sequence[str] = ()
) -> str:
    """A line for each subnet.

    Args:
        rows: Name, resources, metrics.
        extra: Other resources to show.
    """
    costs = [name for name in dict.fromkeys([*_COSTS, *extra]) if any(name in resources for _, resources, _ in rows)]
    metrics = list(dict.fromkeys(name for _, _, found in rows for name in found))
    head = ["subnet", *(_COSTS.get(name, name) for name in costs), *metrics]
    cells = [
        [
            name,
            *(f"{resources[key]:.3g} ms" if key == "latency_ms" else short(resources[key]) for key in costs),
            *(f"{found[key]:.4f}" if key in found else "-" for key in metrics),
        ]
        for name, resources, found in rows
    ]
    lines = [head, *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(aligned(lines, widths))
