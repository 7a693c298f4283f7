"""A picture of what a unit is: the weights of a small residual network, with one unit narrowed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pictures.found import Layer, layers_of, prepare, wires_of
from pictures.svg import FAINT, INK, Svg, colour

__all__ = ["Residual", "draw"]

_CELL, _STRIP, _GAP = 11, 9, 44
_TOP, _LEFT = 92, 30


class Residual(nn.Module):
    """A stem, a block around which its input is added to its output, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv1, self.conv2 = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images."""
        x = self.norm(self.stem(images))
        x = x + self.conv2(torch.relu(self.conv1(x)))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


def draw() -> str:
    """The picture as SVG."""
    torch.manual_seed(0)
    example = torch.randn(2, 3, 8, 8)
    mutator = prepare(Residual(), example)
    stream, hidden = mutator.mutable_units
    mutator.set_choices({stream.name: 5, hidden.name: 7})
    layers = layers_of(mutator)
    wires = wires_of(Residual(), example, [layer.name for layer in layers])
    mutable = [number for number, unit in enumerate(mutator.units) if unit.is_mutable]
    fills = {number: colour(k, len(mutable)) for k, number in enumerate(mutable)}
    picture = Svg("The weights of five layers, with the channels of each unit in its colour")
    right, bottom, spots = float(_LEFT), 0.0, dict[str, tuple[float, float, float]]()
    for layer in layers:
        width, height = _layer(picture, right, layer, fills)
        spots[layer.name] = (right, width, height)
        right, bottom = right + width + _GAP, max(bottom, _TOP + height)
    for (source, target), how in wires.items():
        _wire(picture, spots, source, target, how, [layer.name for layer in layers])
    y = bottom + 44
    for number, unit in enumerate(mutator.units):
        kept = unit.mutable_channel.activated_channels
        state = f"{kept} of {unit.num_channels} channels active" if unit.is_mutable else unit.why_not().split(" (")[0]
        picture.rect(_LEFT, y - 10, 11, 11, fill=fills.get(number, FAINT))
        picture.text(_LEFT + 20, y, unit.name, 13, font_weight=600)
        picture.text(_LEFT + 170, y, state, 13)
        y += 22
    return picture.render(right - _GAP + _LEFT, y + 4)


def _layer(picture: Svg, x: float, layer: Layer, fills: dict[int, str]) -> tuple[float, float]:
    """Draw a layer's weight, a row for each output and a column for each input; returns width and height."""
    rows, columns = layer.outputs, () if layer.is_norm else layer.inputs
    width, height = max(1, len(columns)) * _CELL + _STRIP + 4, len(rows) * _CELL
    slot = max(width, 64)  # as wide as its name, at least
    x += (slot - width) / 2
    left = x + _STRIP + 4
    for i, (unit, active) in enumerate(rows):
        _mark(picture, x, _TOP + i * _CELL, _STRIP, _CELL, fills.get(unit, FAINT), active)
        for j, (_, also) in enumerate(columns or [(0, True)]):
            fill = "#cbd2d9" if active and also else "white"
            picture.rect(left + j * _CELL, _TOP + i * _CELL, _CELL, _CELL, fill=fill, stroke="#e4e7eb")
    for j, (unit, active) in enumerate(columns):
        _mark(picture, left + j * _CELL, _TOP - _STRIP - 4, _CELL, _STRIP, fills.get(unit, FAINT), active)
    middle = x + width / 2
    picture.text(middle, _TOP - 46, layer.name, 13, "middle", font_weight=600)
    picture.text(middle, _TOP - 32, layer.kind, 10, "middle", fill="#616e7c")
    return slot, height


def _mark(picture: Svg, x: float, y: float, width: float, height: float, fill: str, active: bool) -> None:
    """One channel of a side: full if it is active."""
    picture.rect(x + 1, y + 1, width - 2, height - 2, fill=fill if active else "white", stroke=fill)


def _wire(
    picture: Svg, spots: dict[str, tuple[float, float, float]], source: str, target: str, how: str, order: list[str]
) -> None:
    """An arrow from one layer to the next; above everything where it skips some."""
    (x, width, height), (to, wide, _) = spots[source], spots[target]
    if order.index(target) == order.index(source) + 1:
        y = _TOP + min(height, spots[target][2]) / 2
        picture.arrow([(x + width + 8, y), (to - 8, y)])
        return
    middle, end = x + width + 12, to + wide / 2
    y = _TOP + height / 2
    picture.path(f"M{middle} {y} L{middle} 26 L{end} 26", stroke=INK, stroke_width=1.2)
    picture.arrow([(end, 26), (end, 34)])
    picture.text((middle + end) / 2, 20, how, 11, "middle", fill="#616e7c")
