"""A picture of what one network for all widths is worth: accuracy against FLOPs, beside networks trained alone."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from pictures.svg import INK, Svg, colour

__all__ = ["draw"]

_FIGURES = Path(__file__).with_suffix(".json")  # written by benchmarks/slimmable.py
_LEFT, _TOP, _WIDTH, _HEIGHT = 76, 92, 560, 300
_GRID, _ASIDE = "#e4e7eb", 4  # the two kinds stand side by side, so that their error bars can be told apart


@dataclass(frozen=True)
class Scale:
    """From values to places in the picture.

    Attributes:
        low: Least accuracy that is shown, in percent; the most is 100.
        step: Between two lines of the grid.
        right: Most MFLOPs that are shown.
    """

    low: float
    step: float
    right: float

    def x(self, mflops: float) -> float:
        """From the left."""
        return _LEFT + _WIDTH * mflops / self.right

    def y(self, accuracy: float) -> float:
        """From the top."""
        return _TOP + _HEIGHT * (100 - accuracy) / (100 - self.low)


@dataclass(frozen=True)
class Point:
    """Mean and standard deviation of an accuracy in percent, and its cost."""

    mflops: float
    mean: float
    deviation: float


def draw() -> str:
    """The picture as SVG."""
    figures = json.loads(_FIGURES.read_text(encoding="utf-8"))
    widths = sorted(figures["widths"], key=lambda width: float(width["flops"]))
    kinds = {kind: [_point(width["flops"], width[kind]) for width in widths] for kind in ("sandwich", "alone")}
    scale = _scale([point for points in kinds.values() for point in points])
    picture = Svg("Accuracy on the digits against FLOPs: one network for all widths, and networks trained alone")
    epochs, seeds = figures["epochs"], len(figures["seeds"])
    picture.text(16, 30, "One network for all widths", 16, font_weight=600)
    picture.text(16, 50, f"digits, {epochs} epochs, mean ± standard deviation of {seeds} seeds", 13, fill="#616e7c")
    _axes(picture, scale)
    for width in widths:
        x = scale.x(width["flops"] / 1e6)
        picture.path(f"M{x:.1f} {_TOP} V{_TOP + _HEIGHT}", stroke=_GRID, stroke_dasharray="3 3")
        picture.text(x, _TOP - 8, f"width {width['width']:g}", 11, "middle", fill="#616e7c")
    labels = ("one network, trained at all widths (sandwich)", "networks trained alone, each at one width")
    for number, points in enumerate(kinds.values()):
        _line(picture, scale, points, number)
    left, top = _LEFT + 196, _TOP + _HEIGHT - 60
    picture.rect(left, top, 348, 50, fill="white", stroke=_GRID, rx=4)
    for number, label in enumerate(labels):
        y = top + 15 + 21 * number
        _dash(picture, [(left + 12, y), (left + 44, y)], number)
        _mark(picture, left + 28, y, number)
        picture.text(left + 54, y + 4, label, 12)
    return picture.render(_LEFT + _WIDTH + 24, _TOP + _HEIGHT + 60)


def _point(flops: int, accuracies: list[float]) -> Point:
    percent = [100 * accuracy for accuracy in accuracies]
    return Point(flops / 1e6, statistics.mean(percent), statistics.stdev(percent) if len(percent) > 1 else 0.0)


def _scale(points: list[Point]) -> Scale:
    """As close as the points allow, with round numbers at the ends and room below for the legend."""
    least = min(point.mean - point.deviation for point in points)
    step = next(step for step in (0.5, 1, 2, 5, 10, 20) if 100 - least <= 6 * step)
    low = math.floor(least / step) * step - step
    return Scale(max(low, 0.0), step, math.ceil(max(point.mflops for point in points) * 5 + 0.1) / 5)


def _axes(picture: Svg, scale: Scale) -> None:
    accuracy = scale.low
    while accuracy <= 100:
        y = scale.y(accuracy)
        picture.path(f"M{_LEFT} {y:.1f} H{_LEFT + _WIDTH}", stroke=_GRID)
        picture.text(_LEFT - 8, y + 4, f"{accuracy:g}", 11, "end")
        accuracy += scale.step
    ticks = round(scale.right * 5)
    for tick in range(ticks + 1):
        x = scale.x(tick / 5)
        picture.path(f"M{x:.1f} {_TOP + _HEIGHT} v5", stroke=INK)
        picture.text(x, _TOP + _HEIGHT + 19, f"{tick / 5:g}", 11, "middle")
    picture.path(f"M{_LEFT} {_TOP} V{_TOP + _HEIGHT} H{_LEFT + _WIDTH}", stroke=INK)
    middle = _TOP + _HEIGHT / 2
    picture.text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 44, "cost of one image (MFLOPs)", 13, "middle")
    picture.text(26, middle, "accuracy on held-out images (%)", 13, "middle", transform=f"rotate(-90 26 {middle:g})")


def _line(picture: Svg, scale: Scale, points: list[Point], number: int) -> None:
    """One kind of network: its line, and at each width its error bar and its mark."""
    aside = _ASIDE if number else -_ASIDE
    places = [(scale.x(point.mflops) + aside, scale.y(point.mean)) for point in points]
    _dash(picture, places, number)
    for point, (x, y) in zip(points, places, strict=True):
        top, bottom = scale.y(min(100.0, point.mean + point.deviation)), scale.y(point.mean - point.deviation)
        bar = f"M{x - 3:.1f} {top:.1f} h6 M{x:.1f} {top:.1f} V{bottom:.1f} M{x - 3:.1f} {bottom:.1f} h6"
        picture.path(bar, stroke=_colour(number), stroke_width=1.2)
        _mark(picture, x, y, number)


def _dash(picture: Svg, places: list[tuple[float, float]], number: int) -> None:
    """Whole for the sandwich, broken for the others, so that no one needs the colours."""
    d = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    style = {"stroke_dasharray": "6 4"} if number else {}
    picture.path(d, stroke=_colour(number), stroke_width=1.8, **style)


def _mark(picture: Svg, x: float, y: float, number: int) -> None:
    """Round for the sandwich, square for the others."""
    picture.rect(x - 4, y - 4, 8, 8, rx=1 if number else 4, fill=_colour(number), stroke="white")


def _colour(number: int) -> str:
    return colour(number, 2)
