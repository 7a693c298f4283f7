"""What a report shows, as plain data."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch

import lightning_channels
from lightning_channels._modules import named_modules_of
from lightning_channels.dynamic_ops.factory import plain_class
from lightning_channels.mutators import ChannelMutator
from lightning_channels.mutators.report import Report
from lightning_channels.mutators.report_table import place, proof_line, told
from lightning_channels.pruning.bounds import bounds_of
from lightning_channels.reporting.placing import place_units
from lightning_channels.reporting.routing import NODE_HEIGHT, NODE_WIDTH, draw_wires
from lightning_channels.reporting.wires import Wire, find_wires
from lightning_channels.resources import Resources
from lightning_channels.units import MutableChannelUnit

__all__ = ["gather", "ranges"]

_LISTED = 12
"""Widths that are listed one by one; of more the least, the most and the step are given."""


def gather(mutator: ChannelMutator) -> dict[str, Any]:
    """Everything but the search.

    Args:
        mutator: Prepared, at the choices that the report is about.
    """
    report, resources = mutator.report(), Resources(mutator, per_sample=True)
    wires = find_wires(mutator.units)
    return {
        "model": plain_class(mutator.model).__name__,
        "versions": {
            "lightning-channels": lightning_channels.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "covered": report.covered,
        "proof": proof_line(report),
        "totals": _totals(resources),
        "modules": _modules(mutator, resources),
        "units": _units(mutator, report, resources, wires),
        "graph": _graph(len(mutator.units), wires),
        "attentions": [[a.module, a.active_heads, a.heads, a.active_head_dim, a.head_dim] for a in report.attentions],
        "unassigned": [[p.name, p.params, p.reason] for p in report.unassigned],
        "unruled": [[place(op.op, [op.module], op.line), list(op.units)] for op in report.unruled],
    }


def ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers with runs drawn together."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)  # noqa: RUF001


def _totals(resources: Resources) -> dict[str, list[float]]:
    """Name → at full width, and now."""
    now = resources.measure(resources.current)
    return {name: [round(resources.totals[name]), round(float(now[name]))] for name in resources.names}


def _modules(mutator: ChannelMutator, resources: Resources) -> list[dict[str, Any]]:
    """Of each module its type, and what it costs at full width and now."""
    before, after = (resources.by_module(numbers) for numbers in (resources.full, resources.current))
    classes = {name: plain_class(module).__name__ for name, module in named_modules_of(mutator.model)}
    return [
        {
            "name": name,
            "type": classes.get(name, ""),
            **{key: [own[key], after[name][key]] for key in resources.names if key in own},
        }
        for name, own in before.items()
    ]


def _units(
    mutator: ChannelMutator, report: Report, resources: Resources, wires: Sequence[Wire]
) -> list[dict[str, Any]]:
    """Of each unit its widths, where its channels are, what they cost, and why it can't change."""
    saved = _saved(resources)
    widths = _widths(mutator.mutable_units)
    return [
        {
            "name": unit.name,
            "label": unit.channels[0].label if unit.channels else unit.name,
            "type": type(unit).__name__,
            "channels": unit.num_channels,
            "active": unit.mutable_channel.activated_channels,
            "mutable": unit.is_mutable,
            "widths": widths.get(unit.name, str(unit.num_channels)),
            "kept": None if unit.kept is None else ranges(unit.kept),
            "groups": unit.groups,
            "inexact": None if unit.exact or not unit.is_mutable else found.inexact,
            "params": found.params,
            "saved": saved.get(unit.name),
            **_places(unit),
            "reason": told(found),
            "place": place(found.op, [found.module], found.line) if found.op else "",
        }
        for unit, found in zip(mutator.units, report.units, strict=True)
    ]


def _saved(resources: Resources) -> dict[str, dict[str, int]]:
    """Unit → what its choice saves of the whole, with the others as they are."""
    current = resources.current
    wider = current.repeat(len(current), 1)
    wider.diagonal().copy_(resources.full)
    now, full = resources.measure(current), resources.measure(wider)
    return {
        unit: {name: round(float(full[name][number] - now[name])) for name in resources.names}
        for number, unit in enumerate(resources.units)
    }


def _widths(units: Sequence[MutableChannelUnit]) -> dict[str, str]:
    """Unit → the numbers of channels that it may have."""
    return {bounds.unit.name: _summed_up(bounds.allowed.tolist()) for bounds in bounds_of(units, {}, (), {})}


def _summed_up(numbers: Sequence[int]) -> str:
    steps = {after - before for before, after in pairwise(numbers)}
    if len(steps) == 1 and len(numbers) > 4:
        step = steps.pop()
        return f"{numbers[0]} to {numbers[-1]}" + (f" by {step}" if step > 1 else "")
    if len(numbers) <= _LISTED:
        return ", ".join(map(str, numbers))
    return f"{numbers[0]} to {numbers[-1]}, {len(numbers)} of them"


def _places(unit: MutableChannelUnit) -> dict[str, list[str]]:
    """The modules that write a unit's channels, those that read them, and those that they pass through, as norms."""
    written, read = (dict.fromkeys(c.label for c in side) for side in (unit.output_related, unit.input_related))
    return {
        "written": [label for label in written if label not in read],
        "read": [label for label in read if label not in written],
        "through": [label for label in written if label in read],
    }


def _graph(count: int, wires: Sequence[Wire]) -> dict[str, Any]:
    drawing = draw_wires(place_units(count, wires), wires)
    return {
        "width": drawing.width,
        "height": drawing.height,
        "node": [NODE_WIDTH, NODE_HEIGHT],
        "nodes": drawing.nodes,
        "wires": [
            {"from": wire.source, "to": wire.target, "modules": wire.modules, "returns": wire.returns, "path": path}
            for wire, path in zip(wires, drawing.paths, strict=True)
        ],
    }
