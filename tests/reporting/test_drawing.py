"""The picture of the units: what is wired, that nothing stands or runs over anything else, in any network."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_channels import ChannelMutator
from lightning_channels.reporting.placing import Cell, place_units
from lightning_channels.reporting.routing import NODE_HEIGHT, NODE_WIDTH, Drawing, draw_wires
from lightning_channels.reporting.wires import Wire, find_wires
from tests.reporting.nets import prepared


def wired(model: nn.Module, example: torch.Tensor) -> dict[tuple[str, str], tuple[str, ...]]:
    mutator = prepared(model, example)
    names = [unit.channels[0].label for unit in mutator.units]
    return {(names[wire.source], names[wire.target]): wire.modules for wire in find_wires(mutator.units)}


def test_a_wire_is_a_module_between_two_units() -> None:
    mutator = prepared()
    assert [unit.name for unit in mutator.units] == [
        "stem_(0, 3)_3",
        "stem_(0, 8)_8",
        "conv1_(0, 12)_12",
        "head_(0, 5)_5",
    ]
    assert find_wires(mutator.units) == [
        Wire(0, 1, ("stem",)),
        Wire(1, 2, ("conv1",)),
        Wire(1, 3, ("head",)),
        Wire(2, 1, ("conv2",)),  # the block's end, which writes what its beginning read
    ]
    assert [wire.returns for wire in find_wires(mutator.units)] == [False, False, False, True]


class Concatenated(nn.Module):
    """Two convolutions side by side, a norm over both, and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(10)
        self.depthwise = nn.Conv2d(10, 10, 3, groups=10)
        self.last = nn.Conv2d(10, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.depthwise(self.norm(torch.cat([self.a(x), self.b(x)], 1))))


def test_what_passes_channels_on_is_no_wire() -> None:
    found = wired(Concatenated(), torch.randn(1, 3, 8, 8))
    assert found == {("a", "a"): ("a",), ("b", "b"): ("b",), ("a", "last"): ("last",), ("b", "last"): ("last",)}


# --- where everything is
# -----------------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]


def boxes(drawing: Drawing) -> list[Box]:
    return [(x, y, x + NODE_WIDTH, y + NODE_HEIGHT) for x, y in drawing.nodes]


def meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def stretches(path: str) -> list[Box]:
    """The straight pieces of a path; the roundings lie within the corners."""
    points = [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]
    return [(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in pairwise(points)]


def check(count: int, wires: Sequence[Wire]) -> Drawing:
    cells = place_units(count, wires)
    assert len(set(cells)) == count
    drawing = draw_wires(cells, wires)
    drawn = boxes(drawing)
    assert not any(meet(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert all(a >= 0 and b >= 0 and c <= drawing.width and d <= drawing.height for a, b, c, d in drawn)
    for wire, path in zip(wires, drawing.paths, strict=True):
        pieces = stretches(path)
        for x0, y0, x1, y1 in pieces:
            assert min(x0, y0) >= 0
            assert x1 <= drawing.width
            assert y1 <= drawing.height
            assert not any(meet((x0, y0, x1, y1), box) for box in drawn), (wire, path)
        begin, end = drawn[wire.source], drawn[wire.target]
        (x, y), (to_x, to_y) = ends(path)
        assert (x, y) == (
            (begin[2], (begin[1] + begin[3]) / 2) if wire.returns else ((begin[0] + begin[2]) / 2, begin[3])
        )
        assert end[0] < to_x < end[2]
        assert to_y == (end[3] if wire.returns else end[1])
    return drawing


def ends(path: str) -> tuple[tuple[float, float], tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    return (numbers[0], numbers[1]), (numbers[-2], numbers[-1])


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[Wire]]:
    count = draw(st.integers(1, 40))
    place = st.integers(0, count - 1)
    pairs = draw(st.sets(st.tuples(place, place).filter(lambda pair: pair[0] != pair[1]), max_size=80))
    return count, [Wire(source, target, ("m",)) for source, target in sorted(pairs)]


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_nothing_overlaps_in_any_graph(graph: tuple[int, list[Wire]]) -> None:
    check(*graph)


@pytest.mark.parametrize(
    ("build", "most_wide", "most_high"),
    [
        (torchvision.models.resnet50, 1240, 2000),
        (torchvision.models.mobilenet_v2, 1240, 2000),
        (torchvision.models.densenet121, 2000, 1400),
    ],
)
def test_networks_are_drawn_in_little_room(build: Callable[[], nn.Module], most_wide: int, most_high: int) -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(build(), torch.randn(1, 3, 64, 64), verify=False)
    wires = find_wires(mutator.units)
    drawing = check(len(mutator.units), wires)
    assert drawing == check(len(mutator.units), wires)
    assert drawing.width <= most_wide
    assert drawing.height <= most_high


def test_the_way_through_a_network_goes_straight_down() -> None:
    cells = place_units(
        5, [Wire(0, 1, ("a",)), Wire(1, 2, ("b",)), Wire(2, 1, ("c",)), Wire(1, 3, ("d",)), Wire(3, 4, ("e",))]
    )
    assert cells == [Cell(0, 0), Cell(1, 0), Cell(2, 1), Cell(3, 0), Cell(4, 0)]


def test_a_long_chain_is_folded() -> None:
    cells = place_units(60, [Wire(at, at + 1, ("m",)) for at in range(59)])
    assert max(cell.row for cell in cells) == 14
    assert max(cell.column for cell in cells) == 3


def test_there_may_be_nothing_to_draw() -> None:
    assert draw_wires(place_units(0, []), []).nodes == ()
