"""What choices cost by module and by unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ResourceTable", "aligned", "short"]

Counts = dict[str, int]

_HEADS = {"macs": "MACs", "params": "parameters", "activations": "bytes made"}
_UNITS = ("", "K", "M", "G", "T", "P")


@dataclass(frozen=True, slots=True)
class ResourceTable:
    """What one choice of a model costs, and what of it each module and each unit is. Prints as a table.

    Attributes:
        totals: Name → cost, as of :meth:`Resources.count`.
        full: The same at full width.
        modules: Module → its costs; those of the modules inside it are not among them.
        units: Unit → what would be gone without all of its channels. A kernel is counted for its input's unit and for
            its output's.
        channels: Unit → active channels and all.
    """

    totals: Counts
    full: Counts
    modules: Mapping[str, Counts]
    units: Mapping[str, Counts]
    channels: Mapping[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """The table as plain data, which JSON can hold."""
        data = asdict(self)
        data["channels"] = {name: list(numbers) for name, numbers in self.channels.items()}
        return data

    def __str__(self) -> str:
        names = [name for name in _HEADS if name in self.totals]
        head = ["", *(text for name in names for text in (_HEADS[name], ""))]
        rows = [
            ["at full width", *(text for name in names for text in (short(self.full[name]), ""))],
            ["at this choice", *self._cells(names, self.totals, self.full)],
        ]
        modules = [[name or "the model", *self._cells(names, own, self.totals)] for name, own in self.modules.items()]
        units = [
            [f"{name}: {self.channels[name][0]} of {self.channels[name][1]}", *self._cells(names, own, self.totals)]
            for name, own in self.units.items()
        ]
        tables = [[head, *rows], [["module", *head[1:]], *modules], [["unit", *head[1:]], *units]]
        widths = [max(map(len, column)) for column in zip(*(row for table in tables for row in table), strict=True)]
        return "\n\n".join("\n".join(aligned(table, widths)) for table in tables)

    def _cells(self, names: Iterable[str], own: Counts, whole: Counts) -> list[str]:
        cells = []
        for name in names:
            value = own.get(name, 0)
            cells += [short(value), f"{value / whole[name]:.1%}"] if value and whole[name] else ["-", "-"]
        return cells


def short(number: float) -> str:
    """A number in thousands, millions, and so on."""
    place = 0
    while number >= 999.95 and place < len(_UNITS) - 1:
        number, place = number / 1000, place + 1
    return f"{number:.2f} {_UNITS[place]}" if place else f"{number:.0f}"


def aligned(rows: list[list[str]], widths: list[int]) -> Iterable[str]:
    """The lines of a table: the first column to the left, the others to the right."""
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()
