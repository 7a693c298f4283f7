"""The ways of the wires between cells: through the gutters alone, so that none crosses a unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightning_channels.reporting.placing import Cell
from lightning_channels.reporting.wires import Wire

__all__ = ["NODE_HEIGHT", "NODE_WIDTH", "Drawing", "draw_wires"]

NODE_WIDTH, NODE_HEIGHT = 150, 38
_MARGIN = 8
_FIRST, _STEP = 6, 4  # where a gutter's first lane or track is, and how far it is to the next
_LEAST_GUTTER = 18.0  # room for an arrow's head
_ROUND = 4
_ASIDE = 34  # a returning wire arrives so far right of the middle

_Point = tuple[float, float]
_Key = tuple[str, int]  # where wires come from or lead to, and of which unit, column or row
_Stretches = dict[_Key, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Drawing:
    """Where everything is, in pixels.

    Attributes:
        nodes: Upper left corner of each unit's box.
        paths: Of each wire, as an SVG path.
        width: Of the whole picture.
        height: Likewise.
    """

    nodes: tuple[_Point, ...]
    paths: tuple[str, ...]
    width: float
    height: float


def draw_wires(cells: Sequence[Cell], wires: Sequence[Wire]) -> Drawing:
    """Lay the grid out with as much room in its gutters as the wires need, and find their ways.

    Args:
        cells: Of each unit.
        wires: Between them.
    """
    grid = _Grid(cells, wires)
    points = [grid.way(wire) for wire in wires]
    return Drawing(
        tuple(grid.corner(cell) for cell in cells), tuple(map(_rounded, points)), grid.right[-1], grid.bottom[-1]
    )


class _Grid:
    """Columns and rows with gutters between them.

    A wire leaves its unit at the bottom and goes along a track of the gutter below its row, down a lane of the gutter
    left of its target's column, along a track of the gutter above its target's row, and into the target from above. A
    returning one leaves to the right and arrives from below.
    """

    def __init__(self, cells: Sequence[Cell], wires: Sequence[Wire]) -> None:
        self._cells = cells
        self._taken = set(cells)
        rows = 1 + max((cell.row for cell in cells), default=0)
        columns = 1 + max((cell.column for cell in cells), default=0)
        self._tracks: list[dict[_Key, int]] = [{} for _ in range(rows + 1)]  # gutter i is above row i
        self._lanes: list[dict[_Key, int]] = [{} for _ in range(columns + 1)]  # and left of column i
        self._reserve(wires)
        across, along = _room(self._lanes), _room(self._tracks)
        self._left, self.right = _edges(across, NODE_WIDTH, columns)
        self._top, self.bottom = _edges(along, NODE_HEIGHT, rows)

    def corner(self, cell: Cell) -> _Point:
        """Upper left corner of a unit's box."""
        return self.right[cell.column], self.bottom[cell.row]

    def way(self, wire: Wire) -> list[_Point]:
        """The corners of a wire's way."""
        source, target = self._cells[wire.source], self._cells[wire.target]
        (x, y), (to_x, to_y) = self.corner(source), self.corner(target)
        if wire.returns:
            y, end = y + NODE_HEIGHT / 2, to_x + NODE_WIDTH / 2 + _ASIDE
            lane = self._lane(source.column + 1, ("return", wire.target))
            track = self._track(target.row + 1, ("return", target.column))
            return [(x + NODE_WIDTH, y), (lane, y), (lane, track), (end, track), (end, to_y + NODE_HEIGHT)]
        x, y, end = x + NODE_WIDTH / 2, y + NODE_HEIGHT, to_x + NODE_WIDTH / 2
        if self._is_straight(source, target):
            return [(x, y), (end, to_y)]
        out = self._track(source.row + 1, ("out", source.column))
        if target.row == source.row + 1:
            return [(x, y), (x, out), (end, out), (end, to_y)]
        lane = self._lane(target.column, ("in", wire.source))
        into = self._track(target.row, ("in", target.column))
        return [(x, y), (x, out), (lane, out), (lane, into), (end, into), (end, to_y)]

    # --- what is reserved --------------------------------------------------------------------------------------------

    def _reserve(self, wires: Sequence[Wire]) -> None:
        """A lane or track for each stretch, the same one for those that don't meet and for those of one unit."""
        lanes: list[_Stretches] = [{} for _ in self._lanes]
        tracks: list[_Stretches] = [{} for _ in self._tracks]
        for wire in wires:
            source, target = self._cells[wire.source], self._cells[wire.target]
            middle = 2 * target.column + 1  # of a column; its gutter is at one less
            if wire.returns:
                lane = source.column + 1
                _widen(lanes[lane], ("return", wire.target), source.row, target.row + 1)
                _widen(tracks[target.row + 1], ("return", target.column), 2 * lane, middle)
            elif self._is_straight(source, target):
                continue
            elif target.row == source.row + 1:
                _widen(tracks[target.row], ("out", source.column), 2 * source.column + 1, middle)
            else:
                _widen(lanes[target.column], ("in", wire.source), source.row + 1, target.row)
                _widen(tracks[source.row + 1], ("out", source.column), 2 * source.column + 1, middle - 1)
                _widen(tracks[target.row], ("in", target.column), middle - 1, middle)
        self._lanes = [_coloured(own) for own in lanes]
        self._tracks = [_coloured(own) for own in tracks]

    def _is_straight(self, source: Cell, target: Cell) -> bool:
        """Whether there is nothing between two cells of a column."""
        between = range(source.row + 1, target.row)
        return (
            source.column == target.column
            and source.row < target.row
            and not any(Cell(row, source.column) in self._taken for row in between)
        )

    def _track(self, gutter: int, key: _Key) -> float:
        return self._top[gutter] + _FIRST + _STEP * self._tracks[gutter][key]

    def _lane(self, gutter: int, key: _Key) -> float:
        return self._left[gutter] + _FIRST + _STEP * self._lanes[gutter][key]


def _widen(stretches: _Stretches, key: _Key, *ends: int) -> None:
    """Let a stretch reach two ends as well."""
    low, high = stretches.get(key, (min(ends), max(ends)))
    stretches[key] = min(low, *ends), max(high, *ends)


def _room(gutters: Sequence[Mapping[_Key, int]]) -> list[float]:
    """How wide gutters must be; the outer ones are margins where nothing is in them."""
    sizes = [_LEAST_GUTTER if not own else max(_LEAST_GUTTER, 15 + _STEP * max(own.values())) for own in gutters]
    for outer in (0, -1):
        sizes[outer] = sizes[outer] if gutters[outer] else _MARGIN
    return sizes


def _edges(gutters: Sequence[float], size: float, count: int) -> tuple[list[float], list[float]]:
    """Where each gutter begins and ends."""
    begins, ends, at = [], [], 0.0
    for number, gutter in enumerate(gutters):
        begins.append(at)
        ends.append(at + gutter)
        at += gutter + (size if number < count else 0)
    return begins, ends


def _coloured(stretches: _Stretches) -> dict[_Key, int]:
    """A number for each stretch, of which two that meet have different ones."""
    found: dict[_Key, int] = {}
    ends: list[int] = []
    for key, (low, high) in sorted(stretches.items(), key=lambda item: (item[1], item[0])):
        lane = next((number for number, end in enumerate(ends) if end < low), len(ends))
        ends[lane:] = [high, *ends[lane + 1 :]]
        found[key] = lane
    return found


def _rounded(points: Iterable[_Point]) -> str:
    """A path along points, with its corners cut round."""
    corners = list(dict.fromkeys(points))
    parts = [f"M{_number(*corners[0])}"]
    for before, corner, after in zip(corners, corners[1:], corners[2:], strict=False):
        parts.append(f"L{_towards(corner, before)}Q{_number(*corner)} {_towards(corner, after)}")
    return "".join([*parts, f"L{_number(*corners[-1])}"])


def _towards(corner: _Point, other: _Point) -> str:
    """The point where the rounding of a corner meets the stretch to another one."""
    across, along = other[0] - corner[0], other[1] - corner[1]
    length = abs(across) + abs(along)
    part = min(_ROUND, length / 2) / length
    return _number(corner[0] + across * part, corner[1] + along * part)


def _number(x: float, y: float) -> str:
    return f"{x:.1f} {y:.1f}".replace(".0", "")
