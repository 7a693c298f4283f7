"""Where each unit stands in the picture: the way through the network straight down, what hangs on it beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lightning_channels.reporting.wires import Wire

__all__ = ["Cell", "place_units"]

_MOST_COLUMNS = 6
"""In one strip: the spine and what hangs on it."""

_ALL_COLUMNS = 8
"""In all strips side by side."""

_ROWS = 14
"""A strip has about so many at least."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A place in the grid, counted from 0."""

    row: int
    column: int


def place_units(count: int, wires: Sequence[Wire]) -> list[Cell]:
    """A cell for each unit, no two the same.

    The longest way through the network is the spine, in the first column. Other units stand to its right, each below
    what it reads, in the order of the network. A long picture is cut into strips that stand side by side.

    Args:
        count: Number of units.
        wires: Between them.
    """
    before: list[list[int]] = [[] for _ in range(count)]
    for wire in wires:
        if not wire.returns:
            before[wire.target].append(wire.source)
    ends = sorted(set(range(count)) - {wire.source for wire in wires}) or list(range(count))
    spine = _longest_way(before, ends)
    return _in_strips(_layered(before, spine), spine)


def _longest_way(before: Sequence[Sequence[int]], ends: Sequence[int]) -> set[int]:
    """The units on the longest way to one of the ends; of several, to the last end and through the first units."""
    length = [1] * len(before)
    previous = [-1] * len(before)
    for unit, sources in enumerate(before):
        for source in sources:
            if length[source] + 1 > length[unit]:
                length[unit], previous[unit] = length[source] + 1, source
    at = max(ends, key=lambda unit: (length[unit], unit), default=-1)
    found = set()
    while at >= 0:
        found.add(at)
        at = previous[at]
    return found


def _layered(before: Sequence[Sequence[int]], spine: set[int]) -> list[Cell]:
    """Each unit below all that it reads; a unit of the spine below everything that was placed."""
    cells: list[Cell] = []
    taken: set[Cell] = set()
    top = next_row = 0  # of the last unit of the spine, and below everything
    for unit, sources in enumerate(before):
        above = [cells[source] for source in sources]
        if unit in spine:
            cell = Cell(next_row, 0)
            top = next_row
        else:
            cell = _beside(max([top, *(other.row + 1 for other in above)]), above, taken)
        cells.append(cell)
        taken.add(cell)
        next_row = max(next_row, cell.row + 1)
    return cells


def _beside(row: int, above: Iterable[Cell], taken: set[Cell]) -> Cell:
    """The first free cell from a row on, in the column of what it reads if that is free."""
    wanted = [cell.column for cell in above if cell.column]
    while True:
        for column in [*wanted[-1:], *range(1, _MOST_COLUMNS)]:
            if Cell(row, column) not in taken:
                return Cell(row, column)
        row += 1


def _in_strips(cells: Sequence[Cell], spine: set[int]) -> list[Cell]:
    """Cut the rows into strips that begin with a unit of the spine, and put them side by side."""
    rows = 1 + max((cell.row for cell in cells), default=0)
    columns = 1 + max((cell.column for cell in cells), default=0)
    strips = max(1, min(_ALL_COLUMNS // columns, rows // _ROWS))
    height = math.ceil(rows / strips)
    starts = [0]
    for row in sorted(cells[unit].row for unit in spine):
        if row >= starts[-1] + height:
            starts.append(row)
    found = []
    for cell in cells:
        strip = max(number for number, start in enumerate(starts) if start <= cell.row)
        found.append(Cell(cell.row - starts[strip], strip * columns + cell.column))
    return found
