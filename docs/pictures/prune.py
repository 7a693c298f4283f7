"""A picture of how our pruning compares: the differences of accuracy to Torch-Pruning's, with their intervals."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictures.svg import INK, Svg, colour

__all__ = ["draw"]

_FIGURES = Path(__file__).with_suffix(".json")  # written by benchmarks/prune.py
_LEFT, _WIDTH, _RIGHT, _ROW, _HEAD = 196, 330, 174, 24, 46
_GRID, _MUTED = "#e4e7eb", "#616e7c"
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Scale:
    """From points of accuracy to places in the picture.

    Attributes:
        low: At the left end.
        high: At the right end.
        step: Between two lines of the grid.
    """

    low: float
    high: float
    step: float

    def x(self, points: float) -> float:
        """From the left."""
        return _LEFT + _WIDTH * (points - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Where the grid has lines."""
        return [n * self.step for n in range(round(self.low / self.step), round(self.high / self.step) + 1)]


def draw() -> str:
    """The picture as SVG."""
    figures = json.loads(_FIGURES.read_text(encoding="utf-8"))
    rows = figures["comparisons"]
    picture = Svg("Accuracy after pruning and training on: this library less Torch-Pruning, with 95 % intervals")
    picture.text(16, 30, "Pruned to the same multiply-adds, trained on alike", 16, font_weight=600)
    text = f"accuracy, ours less Torch-Pruning's: mean and 95 % interval of {len(figures['seeds'])} paired seeds"
    picture.text(16, 50, text, 13, fill=_MUTED)
    top = 74.0
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        top = _panel(picture, top, own[0]["title"], own)
    return picture.render(_LEFT + _WIDTH + _RIGHT, top)


def _panel(picture: Svg, top: float, title: str, rows: list[dict[str, Any]]) -> float:
    """A network: a line for each criterion and target; returns where the next one begins."""
    scale = _scale([100 * end for row in rows for end in row["interval"]])
    first, bottom = top + _HEAD, top + _HEAD + _ROW * len(rows)
    picture.text(16, top + 16, title, 13, font_weight=600)
    picture.text(_LEFT + _WIDTH + 16, first - 6, "ours / theirs, %", 11, fill=_MUTED)
    picture.text(_LEFT - 12, first - 6, "multiply-adds left", 11, "end", fill=_MUTED)
    for tick in scale.ticks():
        x = scale.x(tick)
        stroke = INK if tick == 0 else _GRID
        picture.path(f"M{x:.1f} {first} V{bottom}", stroke=stroke)
        picture.text(x, bottom + 16, f"{tick:+g}" if tick else "0", 11, "middle", fill=_MUTED)
    picture.text(_LEFT + _WIDTH / 2, bottom + 34, "points of accuracy; ours is better to the right", 12, "middle")
    for number, row in enumerate(rows):
        _row(picture, scale, first + _ROW * (number + 0.5), row)
    return bottom + 54


def _scale(ends: list[float]) -> Scale:
    """Round ends that hold all intervals and 0."""
    low, high = min(0.0, *ends), max(0.0, *ends)
    step = next((step for step in _STEPS if high - low <= 8 * step), 100)
    return Scale(math.floor(low / step - 0.1) * step, math.ceil(high / step + 0.1) * step, step)


def _row(picture: Svg, scale: Scale, y: float, row: dict[str, Any]) -> None:
    """A criterion at a target: round for half of the multiply-adds, else square, so that no one needs the colours."""
    half = row["target"] >= 0.5
    ink = colour(0 if half else 1, 2)
    means = [100 * statistics.mean(row[side]) for side in ("ours", "theirs")]
    low, high = (scale.x(100 * end) for end in row["interval"])
    picture.text(16, y + 4, row["name"], 12)
    picture.text(_LEFT - 12, y + 4, f"{100 * row['target']:g} %", 12, "end", fill=ink)
    picture.path(
        f"M{low:.1f} {y} H{high:.1f} M{low:.1f} {y - 4} v8 M{high:.1f} {y - 4} v8", stroke=ink, stroke_width=1.4
    )
    x = scale.x(means[0] - means[1])
    picture.rect(x - 4.5, y - 4.5, 9, 9, rx=4.5 if half else 1, fill=ink, stroke="white")
    picture.text(_LEFT + _WIDTH + 16, y + 4, f"{means[0]:.1f} / {means[1]:.1f}", 12, fill=INK)
