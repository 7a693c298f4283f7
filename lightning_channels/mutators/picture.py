"""A picture of a pruned model: how much of each unit is kept, and how important its channels are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from lightning_channels.errors import ChoiceError, ConfigError, did_you_mean
from lightning_channels.units import MutableChannelUnit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Scores", "draw"]

_Values: TypeAlias = Sequence[float] | Tensor
Scores: TypeAlias = Mapping[str, _Values] | Callable[[MutableChannelUnit], _Values]
"""Unit name → a score for each channel; or a criterion, which is called with each unit."""

_ROWS = 50
"""Units below each other; more of them stand in further columns."""

_INK, _MUTED, _KEPT, _DROPPED = "#1f2933", "#616e7c", "#2b6cb0", "#dde3ea"
_COLOURS = "viridis_r"  # important is dark; it reads the same without colours
_BAR, _THIN = 0.74, 0.22  # heights of what is kept and of what is dropped, as parts of a row
_LABEL = 30


def draw(units: Sequence[MutableChannelUnit], path: str | Path | None = None, scores: Scores | None = None) -> Figure:
    """Draw a bar for each unit: what it keeps, of all its channels.

    Args:
        units: From top to bottom.
        path: A file to write; its ending says in which format.
        scores: What the channels are worth: each bar then has a cell for each channel, those that are kept first and
            the most important ones of each kind first, in a colour between the unit's lowest and highest score.

    Raises:
        ConfigError: If matplotlib isn't there, ``scores`` names an unknown unit or hasn't one number for each channel,
            there are no units, or the ending of ``path`` is unknown.
    """
    figure = _new_figure()
    if not units:
        raise ConfigError("the model has no unit that can change, so there is nothing to draw; see mutator.report()")
    values = None if scores is None else _checked(units, scores)
    if path is not None:
        _check_ending(figure, Path(path))
    rows = math.ceil(len(units) / math.ceil(len(units) / _ROWS))
    columns = [units[start : start + rows] for start in range(0, len(units), rows)]
    labels = _labels(units)
    height = 0.21 * rows + (1.45 if values is None else 1.75)
    figure.set_size_inches(5.6 * len(columns) + 0.4, height)
    grid = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, column in zip(grid, columns, strict=True):
        _column(axes, column, rows, values)
        axes.set_yticks(range(len(column)), [labels[unit.name] for unit in column], fontsize=8, color=_INK)
    _describe(figure, units, height, values is not None)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _new_figure() -> Figure:
    try:
        from matplotlib.figure import Figure  # without pyplot, which would keep it and pick a window system
    except ImportError:
        raise ConfigError("pictures need matplotlib; pip install 'lightning-channels[plot]'") from None
    return Figure(facecolor="white")


def _check_ending(figure: Figure, path: Path) -> None:
    known = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ConfigError(f"can't write a picture to {str(path)!r}; its ending must be one of {', '.join(known)}")


# --- scores
# -----------------------------------------------------------------------------------------------------------------


def _checked(units: Sequence[MutableChannelUnit], scores: Scores) -> dict[str, Tensor]:
    """Unit name → importance from 0 to 1 within the unit, for those that have scores."""
    if not isinstance(scores, Mapping) and not callable(scores):
        raise ConfigError(
            "scores must be a dict, unit name → a number for each channel, or a criterion, such as "
            f"build_criterion('l1'); got {scores!r:.100}"
        )
    given = scores if isinstance(scores, Mapping) else {unit.name: scores(unit) for unit in units}
    known = {unit.name: unit for unit in units}
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ChoiceError(f"there are scores for {name!r}, which is no unit that can change{hint}")
    return {name: _relative(known[name], values) for name, values in given.items()}


def _relative(unit: MutableChannelUnit, values: _Values) -> Tensor:
    found = torch.as_tensor(values, dtype=torch.float64, device="cpu").detach()
    if found.shape != (unit.num_channels,) or not bool(found.isfinite().all()):
        raise ConfigError(
            f"unit {unit.name!r} needs {unit.num_channels} finite scores, one for each channel; got a tensor of shape "
            f"{tuple(found.shape)}" + ("" if bool(found.isfinite().all()) else " with others in it")
        )
    low, high = found.min(), found.max()
    return (found - low) / (high - low) if high > low else torch.full_like(found, 0.5)


# --- drawing
# -----------------------------------------------------------------------------------------------------------------


def _column(axes: Axes, units: Sequence[MutableChannelUnit], rows: int, values: Mapping[str, Tensor] | None) -> None:
    """A row for each unit, the first on top."""
    for row, unit in enumerate(units):
        active = unit.mutable_channel.activated_channels
        own = None if values is None else values.get(unit.name)
        if own is None:
            axes.barh(row, 1, _BAR, color=_DROPPED)
            axes.barh(row, active / unit.num_channels, _BAR, color=_KEPT)
        else:
            _cells(axes, row, unit, own)
        text = f"{active} of {unit.num_channels}"
        axes.text(1.02, row, text, va="center", fontsize=8, color=_INK if active < unit.num_channels else _MUTED)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"], fontsize=8, color=_MUTED)
    axes.set_xlim(0, 1)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.grid(axis="x", color="white" if values is None else "#eef1f4", linewidth=0.8)
    axes.set_axisbelow(values is not None)
    for side in axes.spines.values():
        side.set_visible(False)


def _cells(axes: Axes, row: int, unit: MutableChannelUnit, values: Tensor) -> None:
    """A unit's channels side by side: those that are kept as high as the bar, the others thin."""
    from matplotlib.collections import PolyCollection

    kept = torch.zeros(unit.num_channels, dtype=torch.bool)
    kept[unit.mutable_channel.kept.cpu()] = True
    order = (values + 2.0 * kept).argsort(descending=True, stable=True)
    corners, width = [], 1 / unit.num_channels
    for place, channel in enumerate(order.tolist()):
        left, right, half = place * width, (place + 1) * width, (_BAR if kept[channel] else _THIN) / 2
        corners.append([(left, row - half), (right, row - half), (right, row + half), (left, row + half)])
    cells = PolyCollection(corners, array=values[order].numpy(), cmap=_COLOURS, edgecolors="face", linewidths=0.1)
    cells.set_clim(0, 1)
    axes.add_collection(cells)


def _labels(units: Sequence[MutableChannelUnit]) -> dict[str, str]:
    """Unit name → its first module without what all begin with, and which channels where it has several units."""
    firsts = {unit.name: unit.channels[0] for unit in units}
    parts = [first.label.split(".") for first in firsts.values()]
    same = list(takewhile(lambda names: len(set(names)) == 1, zip(*(own[:-1] for own in parts), strict=False)))
    common = sum(len(names[0]) + 1 for names in same) if len(units) > 1 else 0
    found = {}
    for unit in units:
        first = firsts[unit.name]
        whole = (first.start, first.end) == (0, unit.num_channels)
        found[unit.name] = _shortened((first.label if whole else unit.name.rpartition("_")[0])[common:])
    return found


def _shortened(label: str) -> str:
    half = _LABEL // 2
    return label if len(label) <= _LABEL else f"{label[: half - 1]}…{label[-half:]}"


def _describe(figure: Figure, units: Sequence[MutableChannelUnit], height: float, scored: bool) -> None:
    """Title, what the bars are, and the scale of the colours."""
    from matplotlib.cm import ScalarMappable

    active = sum(unit.mutable_channel.activated_channels for unit in units)
    total = sum(unit.num_channels for unit in units)
    changed = sum(unit.mutable_channel.activated_channels < unit.num_channels for unit in units)
    foot = 0.75 if scored else 0.45
    figure.subplots_adjust(
        left=2.2 / figure.get_figwidth(),
        right=1 - 0.95 / figure.get_figwidth(),
        top=1 - 0.85 / height,
        bottom=foot / height,
        wspace=3.15 / 2.45,
    )
    left = 0.2 / figure.get_figwidth()
    figure.text(
        left, 1 - 0.32 / height, f"{active} of {total} channels are kept", fontsize=12, color=_INK, weight="bold"
    )
    what = "kept channels as high bars, dropped ones as thin lines" if scored else "kept and dropped channels"
    note = f"{changed} of {len(units)} units are narrower; {what}"
    figure.text(left, 1 - 0.56 / height, note, fontsize=9, color=_MUTED)
    if scored:
        width = figure.get_figwidth()
        place = figure.add_axes((2.2 / width, 0.3 / height, 2.45 / width, 0.1 / height))
        bar = figure.colorbar(ScalarMappable(cmap=_COLOURS), cax=place, orientation="horizontal")
        least, most = bar.ax.set_xticks([0, 1], ["least", "most important of its unit"], fontsize=8, color=_MUTED)
        least.label1.set_horizontalalignment("left")
        most.label1.set_horizontalalignment("right")
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
