"""What a mutator found: each unit with its share of the model, and why what can't change can't."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from lightning_channels.dynamic_ops.spec import spec_of
from lightning_channels.units import Channel, MutableChannelUnit

__all__ = ["Report", "UnitReport", "make_report"]


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
        macs: Likewise, share of the multiply-accumulates; ``None`` where they were not recorded.
        reason: Why it can't change; empty if it can.
    """

    name: str
    num_channels: int
    mutable: bool
    exact: bool
    groups: int
    params: float
    macs: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a mutator found; prints as a table.

    Attributes:
        units: All units, in order.
        proven: Whether the mutable units were run narrow and compared.
        covered: Share of the parameters that are in a mutable unit, 0 to 1.
        unassigned: Names of the parameters that are in no unit.
        unruled: (operator, module) of the operators without a rule; what reaches them can't change.
    """

    units: tuple[UnitReport, ...]
    proven: bool
    covered: float
    unassigned: tuple[str, ...]
    unruled: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        data = asdict(self)
        return {key: _listed(value) for key, value in data.items()}

    def __str__(self) -> str:
        mutable = sum(unit.mutable for unit in self.units)
        proof = "proven" if self.proven else "not proven: prepared with verify=False or from a template"
        head = f"{mutable} of {len(self.units)} units are mutable ({proof})"
        lines = [f"{head}; {self.covered:.1%} of the parameters are in one", "", *_table(self.units)]
        if self.unassigned:
            lines += ["", f"in no unit: {', '.join(self.unassigned)}"]
        if self.unruled:
            places = [f"{op} in {module or 'the model'}" for op, module in self.unruled]
            lines += ["", f"without a rule: {', '.join(places)}"]
        return "\n".join(lines)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def _table(units: Iterable[UnitReport]) -> list[str]:
    head = ("unit", "channels", "groups", "exact", "params", "MACs", "why it can't change")
    rows = [head]
    for unit in units:
        macs = "" if unit.macs is None else f"{unit.macs:.1%}"
        exact = "yes" if unit.exact else "no"
        rows.append(
            (unit.name, str(unit.num_channels), str(unit.groups), exact, f"{unit.params:.1%}", macs, unit.reason)
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(widths[k]) for k, cell in enumerate(row[1:-1], 1)), row[-1]]
        ).rstrip()
        for row in rows
    ]


def make_report(
    model: nn.Module,
    units: list[MutableChannelUnit],
    macs: Mapping[str, int],
    unruled: Iterable[tuple[str, str]],
    proven: bool,
) -> Report:
    """Gather a report.

    Args:
        model: The prepared model.
        units: All its units.
        macs: Multiply-accumulates of each module, where they are known.
        unruled: Operators without a rule.
        proven: Whether the units were verified.
    """
    modules = dict(model.named_modules())
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    total, all_macs = max(1, sum(sizes.values())), sum(macs.values())
    assigned: dict[str, bool] = {}
    reports = []
    for unit in units:
        tensors = {names[i] for c in unit.channels for i in _tensors(modules[c.name], c) if i in names}
        for name in tensors:
            assigned[name] = assigned.get(name, False) or unit.is_mutable
        spent = sum(macs.get(name, 0) for name in {c.name for c in unit.channels})
        reports.append(
            UnitReport(
                unit.name,
                unit.num_channels,
                unit.is_mutable,
                unit.exact,
                unit.groups,
                sum(sizes[name] for name in tensors) / total,
                spent / all_macs if all_macs else None,
                unit.why_not(),
            )
        )
    covered = sum(sizes[name] for name, mutable in assigned.items() if mutable) / total
    unassigned = tuple(name for name in sizes if name not in assigned)
    return Report(tuple(reports), proven, covered, unassigned, tuple(unruled))


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
