"""What a mutator found: each unit with its share of the model, and why what can't change can't."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lightning_channels._modules import named_modules_of
from lightning_channels.dynamic_ops import candidate_parameters
from lightning_channels.dynamic_ops.spec import spec_of
from lightning_channels.mutables import batch_update
from lightning_channels.mutators.attention_report import AttentionReport
from lightning_channels.mutators.report_table import as_table
from lightning_channels.tracing import ModuleGraph
from lightning_channels.tracing.sides import Refused, refused_modules
from lightning_channels.units import Channel, MutableChannelUnit

if TYPE_CHECKING:
    from lightning_channels.mutators.channel_mutator import ChannelMutator
    from lightning_channels.mutators.proof import ProofRecord

__all__ = ["OpReport", "ParameterReport", "Report", "UnitReport", "make_report", "unruled_ops"]

_PLACE = re.compile(r"(?P<text>.*) \((?P<op>[\w.:]+) in (?P<module>[^(),]+)(?:, (?P<line>[^()]*:\d+))?\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class UnitReport:
    """One unit.

    Attributes:
        name: Its name.
        num_channels: Number of channels.
        mutable: Whether it can change.
        exact: Whether dropping channels leaves the result for the others alone.
        groups: Number of equal tiles that must keep the same channels.
        params: Share of the model's parameters that are in a tensor with these channels, 0 to 1. A kernel is counted
            for its input's unit and for its output's.
        flops: Likewise, share of the FLOPs of convolutions and matrix products; ``None`` where they were not recorded.
        reason: Why it can't change; empty if it can.
        op: The operator that ``reason`` is about, where it is about one.
        module: Dotted name of the module that ran it.
        line: File and line of the code that called it.
        inexact: Why it isn't exact, where that is known.
    """

    name: str
    num_channels: int
    mutable: bool
    exact: bool
    groups: int
    params: float
    flops: float | None
    reason: str
    op: str
    module: str
    line: str
    inexact: str


@dataclass(frozen=True, slots=True)
class ParameterReport:
    """A parameter that is in no unit: its name, its share of all parameters, and why."""

    name: str
    params: float
    reason: str


@dataclass(frozen=True, slots=True)
class OpReport:
    """An operator without a rule.

    Attributes:
        op: Its name.
        module: Dotted name of the module that ran it; empty for the model itself.
        line: File and line of the code that called it.
        units: Names of the units whose channels reach it, and which it keeps from changing.
    """

    op: str
    module: str
    line: str
    units: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a mutator found; prints as a table.

    Attributes:
        units: All units, in order.
        proof: How the mutable units were verified; ``None`` if they come from a template.
        covered: Share of the parameters that are in a mutable unit, 0 to 1.
        left_at_half: Share of the parameters that are left when every mutable unit is at half its width.
        unassigned: The parameters that are in no unit.
        unruled: The operators without a rule; what reaches them can't change.
        attentions: Heads of each attention and their size, at full width and at the current choices.
    """

    units: tuple[UnitReport, ...]
    proof: ProofRecord | None
    covered: float
    left_at_half: float
    unassigned: tuple[ParameterReport, ...]
    unruled: tuple[OpReport, ...]
    attentions: tuple[AttentionReport, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether the mutable units were run narrow and compared."""
        return self.proof is not None and self.proof.mode != "off"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, which JSON can hold."""
        data: dict[str, Any] = _listed(asdict(self))
        return data

    def __str__(self) -> str:
        return as_table(self)


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def unruled_ops(graph: ModuleGraph, units: list[MutableChannelUnit]) -> tuple[OpReport, ...]:
    """The operators of a traced model that have no rule, with the units that they keep from changing.

    Args:
        graph: What the tracer found.
        units: One for each of its groups, in their order.
    """
    names: dict[tuple[str, str], dict[str, None]] = {place: {} for place in graph.unruled}
    if not names:
        return ()
    programs = [program for program in (graph.training, graph.program) if program is not None]
    lines = {(op.name, op.module): op.line for program in programs for op in reversed(program.ops)}
    owner = {c: unit.name for unit, group in zip(units, graph.groups, strict=True) for c in group.classes.tolist()}
    for labels, pin in graph.walk.labels.pins:
        place = (pin.op, pin.module)
        if place in names:
            classes = torch.unique(torch.cat(graph.classes_of(labels))).tolist()
            names[place] |= dict.fromkeys(owner[c] for c in classes if c in owner)
    return tuple(OpReport(*place, lines[place], tuple(found)) for place, found in names.items())


def make_report(
    mutator: ChannelMutator,
    unruled: tuple[OpReport, ...],
    proof: ProofRecord,
    attentions: tuple[AttentionReport, ...] = (),
) -> Report:
    """Gather the report of a prepared mutator.

    Args:
        mutator: What to report on.
        unruled: Operators without a rule.
        proof: How its units were verified.
        attentions: Counts of each attention.
    """
    model, units, macs = mutator.model, mutator.units, mutator.macs
    modules = dict(named_modules_of(model))
    extra = candidate_parameters(model)  # the same channels once more, of which one set is in use at a time
    parameters = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in extra}
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    names = {id(parameter): name for name, parameter in parameters.items()}
    total, all_macs = max(1, sum(sizes.values())), sum(macs.values())
    refused = refused_modules(model)
    assigned: dict[str, bool] = {}
    reports = []
    for unit in units:
        tensors = {names[i] for c in unit.channels for i in _tensors(modules[c.name], c) if i in names}
        for name in tensors:
            assigned[name] = assigned.get(name, False) or unit.is_mutable
        spent = sum(macs.get(name, 0) for name in {c.name for c in unit.channels})
        shares = sum(sizes[name] for name in tensors) / total, spent / all_macs if all_macs else None
        reports.append(_unit_report(unit, *shares))
    return Report(
        tuple(reports),
        proof if mutator.needs_inputs else None,
        sum(sizes[name] for name, mutable in assigned.items() if mutable) / total,
        _left_at_half(mutator),
        tuple(
            ParameterReport(name, size / total, _why_unassigned(model, name, refused))
            for name, size in sizes.items()
            if name not in assigned
        ),
        unruled,
        attentions,
    )


def _unit_report(unit: MutableChannelUnit, params: float, flops: float | None) -> UnitReport:
    reason = unit.why_not()
    found = _PLACE.fullmatch(reason)
    op, module, line = (found["op"], found["module"], found["line"] or "") if found else ("", "", "")
    return UnitReport(
        unit.name,
        unit.num_channels,
        unit.is_mutable,
        unit.exact,
        unit.groups,
        params,
        flops,
        reason,
        op,
        "" if module == "the model" else module,
        line,
        unit.inexact or "",
    )


def _left_at_half(mutator: ChannelMutator) -> float:
    from lightning_channels.resources import ResourceCounter  # counting is a layer below this one

    before = [(unit, unit.mutable_channel.snapshot()) for unit in mutator.mutable_units]
    try:
        with batch_update():
            for unit, _ in before:
                unit.keep_first(int(unit.allowed_number(unit.num_channels / 2)))
        counter = ResourceCounter(mutator)
        return counter.active_params() / max(1, counter.total_params)
    finally:
        with batch_update():
            for unit, snapshot in before:
                unit.mutable_channel.put_back(snapshot)


def _tensors(module: nn.Module, channel: Channel) -> list[int]:
    """Identities of the tensors on a channel's side."""
    if channel.tensor is not None:
        return [id(module._parameters.get(channel.tensor))]
    spec = spec_of(module)
    if spec is None:
        return []
    wanted = {
        key for key, side in spec.sides.items() if (side.is_output if channel.is_output_channel else side.is_input)
    }
    return [id(module._parameters.get(name)) for name, dims in spec.tensors.items() if wanted & set(dims)]


def _why_unassigned(model: nn.Module, name: str, refused: Mapping[str, Refused]) -> str:
    owner = name
    while owner:  # the module that owns it, or one around it
        owner = owner.rpartition(".")[0]
        if owner in refused:
            return refused[owner].reason
    if model.get_parameter(name).numel() == 1:
        return "it is a single number"
    return "none of its dims holds channels of a unit"
