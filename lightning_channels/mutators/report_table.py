"""How a report prints: a table of 100 columns, with what is said about many units said once below it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_channels.mutators.report import Report, UnitReport

__all__ = ["as_table", "place", "proof_line", "share", "told"]

_WIDTH = 100
_LISTED = 4


def as_table(report: Report) -> str:
    """The report as text."""
    mutable = sum(unit.mutable for unit in report.units)
    head = f"{mutable} of {len(report.units)} units are mutable; {share(report.covered)} of the parameters are in one"
    if mutable:
        head += f", {share(report.left_at_half)} are left when each is halved"
    notes = _Notes()
    table = _table(report.units, notes)
    parts = [[*_wrapped(head, ""), *_wrapped(proof_line(report), "  ")], table, notes.lines()]
    if report.attentions:
        layers: dict[str, list[str]] = {}
        for attention in report.attentions:
            heads = _of(attention.active_heads, attention.heads)
            size = _of(attention.active_head_dim, attention.head_dim)
            layers.setdefault(f"{heads} heads of {size}", []).append(attention.module or "the model")
        items = [f"{counts}: {_some(modules)}" for counts, modules in layers.items()]
        parts.append(["attention, at the current choices:", *_items(items)])
    if report.unassigned:
        whole = share(sum(parameter.params for parameter in report.unassigned))
        reasons: dict[str, list[str]] = {}
        for parameter in report.unassigned:
            reasons.setdefault(parameter.reason, []).append(parameter.name)
        items = [f"{_some(names)}: {reason}" for reason, names in reasons.items()]
        parts.append([f"parameters in no unit ({whole}):", *_items(items)])
    if report.unruled:
        items = []
        for op in report.unruled:
            keeps = f"; keeps {_some(op.units)} at full width" if op.units else "; no unit's channels reach it"
            items.append(place(op.op, [op.module], op.line) + keeps)
        parts.append(["operators without a rule:", *_items(items)])
    return "\n\n".join("\n".join(part) for part in parts if part)


def _of(active: int, full: int) -> str:
    return str(full) if active == full else f"{active} (of {full})"


def share(value: float) -> str:
    """A share as percentage; what is not all never reads 100 %, and what is something never reads 0 %."""
    text = f"{value:.1%}"
    if text == "100.0%" and value < 1:
        return "99.9%"
    return "<0.1%" if text == "0.0%" and value > 0 else text


def proof_line(report: Report) -> str:
    """How the mutable units were verified."""
    record = report.proof
    if record is None:
        return "not proven: the units come from a template or the model itself, which was not run"
    if record.mode == "off":
        return "not proven: prepared with verify=False"
    if not record.eval:
        return "nothing to prove: no unit could be narrowed"
    modes = "eval and train mode" if record.train else "eval mode"
    each = ", each unit alone as well," if record.mode == "full" else ""
    against = "its operators' replay and the full model" if record.exact_compared else "its operators' replay"
    text = f"proven in {modes}{each} against {against} ({record.runs} runs, {record.seconds:.1f} s)"
    return text if record.train else f"{text}; not in train mode: {record.train_error or 'it was not recorded'}"


class _Notes:
    """Numbered notes; those that differ in the module alone are one."""

    def __init__(self) -> None:
        self._modules: dict[tuple[str, str, str], dict[str, None]] = {}

    def add(self, text: str, op: str = "", module: str = "", line: str = "") -> str:
        key = (text, op, line)
        self._modules.setdefault(key, {})[module] = None
        return str(list(self._modules).index(key) + 1)

    def lines(self) -> list[str]:
        found = []
        for number, ((text, op, line), modules) in enumerate(self._modules.items(), 1):
            where = f": {place(op, modules, line)}" if op else ""
            found += _wrapped(f"[{number}] {text}{where}", "    ")
        return found


def place(op: str, modules: Iterable[str], line: str) -> str:
    """Where an operator ran: in which modules, and the line of code without the folders that packages lie in."""
    path = line.rpartition("site-packages/")[2]
    return f"{op} in {_some([module or 'the model' for module in modules])}{f', {path}' if path else ''}"


def told(unit: UnitReport) -> str:
    """Why a unit can't change, without the place that its report holds apart."""
    return unit.reason.rpartition(f" ({unit.op} in ")[0] if unit.op else unit.reason


def _some(names: Sequence[str]) -> str:
    if len(names) <= _LISTED + 1:
        return ", ".join(names)
    return f"{', '.join(names[:_LISTED])} and {len(names) - _LISTED} more"


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def _items(items: Iterable[str]) -> list[str]:
    return [line for item in items for line in textwrap.indent("\n".join(_wrapped(item, "  ")), "  ").splitlines()]


def _table(units: Iterable[UnitReport], notes: _Notes) -> list[str]:
    """One line a unit; a name that would push the figures over the edge stands on a line of its own."""
    head = ("channels", "groups", "mutable", "exact", "params", "FLOPs", "notes")
    rows = [(unit.name, *_row(unit, notes)) for unit in units]
    used = [k for k in range(len(head)) if head[k] != "groups" or any(row[1 + k] not in ("", "1") for row in rows)]
    columns = [[head[k], *(row[1 + k] for row in rows)] for k in used]
    widths = [max(map(len, column)) for column in columns]
    room = _WIDTH - sum(widths) - 2 * len(widths)
    first = max([len("unit"), *(len(row[0]) for row in rows if len(row[0]) <= room)])
    lines = []
    for number, name in enumerate(["unit", *(row[0] for row in rows)]):
        cells = [column[number].rjust(width) for column, width in zip(columns[:-1], widths, strict=False)]
        cells.append(columns[-1][number])
        if len(name) > first:
            lines.append(name)
            name = ""
        lines.append("  ".join([name.ljust(first), *cells]).rstrip())
    return lines


def _row(unit: UnitReport, notes: _Notes) -> tuple[str, ...]:
    found = []
    if unit.reason:
        found.append(notes.add(told(unit), unit.op, unit.module, unit.line))
    if unit.mutable and not unit.exact:
        found.append(notes.add(f"not exact: {unit.inexact or 'what is dropped changes the result for the rest'}"))
    constraint = (str(unit.groups), "yes", "yes" if unit.exact else "no") if unit.mutable else ("", "no", "")
    flops = "" if unit.flops is None else share(unit.flops)
    mark = f"[{', '.join(found)}]" if found else ""
    return (str(unit.num_channels), *constraint, share(unit.params), flops, mark)
