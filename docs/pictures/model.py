"""A picture of how a real model is grouped: each layer, with the unit on either side in its colour."""

from __future__ import annotations

import torch
from torchvision.models import resnet18

from pictures.found import Layer, layers_of, prepare
from pictures.svg import FAINT, INK, Svg, colour

__all__ = ["draw"]

_WIDTH, _HEIGHT, _SIDE, _GAP = 118, 36, 30, 12
_LEFT, _TOP = 96, 52


def draw() -> str:
    """The picture of torchvision's resnet18 as SVG."""
    torch.manual_seed(0)
    mutator = prepare(resnet18(), torch.randn(1, 3, 64, 64))
    layers = layers_of(mutator)
    mutable = [number for number, unit in enumerate(mutator.units) if unit.is_mutable]
    fills = {number: colour(k, len(mutable)) for k, number in enumerate(mutable)}
    rows: dict[str, list[Layer]] = {}
    for layer in layers:
        rows.setdefault(_block(layer.name), []).append(layer)
    picture = Svg("The layers of torchvision's resnet18, with the unit on each side in its colour")
    picture.text(16, 30, "resnet18", 16, font_weight=600)
    counts = f"{len(layers)} layers, {len(mutator.units)} units, {len(mutable)} of them mutable"
    picture.text(_LEFT + 12, 30, counts, 13, fill="#616e7c")
    y = _TOP
    for block, inside in rows.items():
        picture.text(16, y + _HEIGHT / 2 + 4, block, 12, font_weight=600)
        for column, layer in enumerate(inside):
            _layer(picture, _LEFT + column * (_WIDTH + _GAP), y, layer, block, fills)
        y += _HEIGHT + _GAP
    width = _LEFT + max(map(len, rows.values())) * (_WIDTH + _GAP) + 4
    return picture.render(width, y + 4)


def _block(name: str) -> str:
    """The block that a layer belongs to: ``layer1.0`` of ``layer1.0.conv1``, else nothing."""
    parts = name.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 else ("stem" if parts[0] in ("conv1", "bn1") else "head")


def _layer(picture: Svg, x: float, y: float, layer: Layer, block: str, fills: dict[int, str]) -> None:
    picture.rect(x, y, _WIDTH, _HEIGHT, fill="#f5f7fa", stroke="#cbd2d9", rx=4)
    for left, side in ((x, layer.inputs), (x + _WIDTH - _SIDE, layer.outputs)):
        unit = side[0][0]
        picture.rect(left, y, _SIDE, _HEIGHT, fill=fills.get(unit, FAINT), rx=4)
        picture.text(left + _SIDE / 2, y + _HEIGHT / 2 + 4, str(len(side)), 11, "middle", fill="white")
    middle = x + _WIDTH / 2
    picture.text(middle, y + 15, _short(layer.name, block), 11, "middle", fill=INK, font_weight=600)
    picture.text(middle, y + 28, layer.kind.replace("BatchNorm2d", "norm").lower(), 10, "middle", fill="#616e7c")


def _short(name: str, block: str) -> str:
    return name.removeprefix(f"{block}.").replace("downsample", "down")
