"""The picture of what is kept: what stands in it, and what it refuses (drawing needs the extra ``plot``)."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_channels import ChannelMutator, ChoiceError, ConfigError, PrepareError, build_criterion

FIRST, SECOND = "first.0_(0, 8)_8", "first.2_(0, 4)_4"


def prepared() -> ChannelMutator:
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("first", nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()))
    net.add_module("second", nn.Linear(4, 2))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, torch.randn(1, 3))
    return mutator


def chain(count: int) -> ChannelMutator:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(nn.Sequential(*(nn.Linear(2, 2) for _ in range(count + 1))), torch.randn(1, 2), False)
    return mutator


def widths(axes: Any) -> list[list[float]]:
    """Of the bars, row by row."""
    rows: dict[int, list[float]] = {}
    for bar in axes.patches:
        rows.setdefault(round(bar.get_y() + bar.get_height() / 2), []).append(bar.get_width())
    return [rows[row] for row in sorted(rows)]


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]


def test_bars_are_what_is_kept_of_all() -> None:
    pytest.importorskip("matplotlib")
    mutator = prepared()
    mutator.set_choices({FIRST: 6})
    figure = mutator.plot()
    (axes,) = figure.axes
    assert widths(axes) == [[1, 0.75], [1, 1]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "2"]  # all begin with "first."
    assert texts(figure)[:3] == ["6 of 8", "4 of 4", "10 of 12 channels are kept"]
    assert texts(figure)[3].startswith("1 of 2 units are narrower")
    bottom, top = axes.get_ylim()
    assert bottom > top  # the first unit is on top


def test_scores_colour_the_channels_and_what_is_kept_comes_first() -> None:
    pytest.importorskip("matplotlib")
    mutator = prepared()
    mutator.name2unit[FIRST].keep([1, 4, 6])
    scores = torch.tensor([3.0, 1.0, 9.0, 5.0, 7.0, 4.0, 2.0, 6.0])
    figure = mutator.plot(scores={FIRST: scores, SECOND: [2.0, 2.0, 2.0, 2.0]})
    first, second = figure.axes[0].collections
    order = [4, 6, 1, 2, 7, 3, 5, 0]  # the three that are kept, then the others, each by their scores
    assert first.get_array().tolist() == [(scores[channel].item() - 1) / 8 for channel in order]
    heights = [path.vertices[:, 1].max() - path.vertices[:, 1].min() for path in first.get_paths()]
    assert heights[0] == pytest.approx(heights[2])
    assert heights[2] > 2 * heights[3]
    assert heights[3] == pytest.approx(heights[7])
    assert [path.vertices[:, 0].min() for path in first.get_paths()] == pytest.approx([i / 8 for i in range(8)])
    assert second.get_array().tolist() == [0.5] * 4  # none is more important than the others


def test_a_criterion_gives_the_scores() -> None:
    pytest.importorskip("matplotlib")
    mutator = prepared()
    criterion = build_criterion("l1")
    first = mutator.plot(scores=criterion).axes[0].collections[0]
    scores = criterion(mutator.name2unit[FIRST])
    expected = ((scores - scores.min()) / (scores.max() - scores.min())).sort(descending=True).values
    assert first.get_array().tolist() == pytest.approx(expected.tolist())


@pytest.mark.parametrize(("count", "rows"), [(50, [50]), (51, [26, 25]), (120, [40, 40, 40])])
def test_many_units_stand_in_columns(count: int, rows: list[int]) -> None:
    pytest.importorskip("matplotlib")
    figure = chain(count).plot()
    assert [len(axes.get_yticklabels()) for axes in figure.axes] == rows
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    assert min(box.height for box in boxes) / rows[0] >= 0.2 * figure.dpi  # room for a line of eight points


def test_long_names_fit() -> None:
    pytest.importorskip("matplotlib")
    inner = nn.Sequential()
    inner.add_module("a_name_that_is_much_longer_than_fits_here", nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4)))
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(nn.Sequential(nn.Linear(2, 2), inner, nn.Linear(4, 2)), torch.randn(1, 2))
    labels = [label.get_text() for label in mutator.plot().axes[0].get_yticklabels()]
    assert labels == ["0", "1.a_name_that_…han_fits_here.0", "1.a_name_that_…han_fits_here.1"]


def test_the_file_is_of_the_kind_that_its_ending_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # it would keep every figure, and ask for a window
    mutator = prepared()
    mutator.plot(tmp_path / "widths.svg")
    assert "<svg" in (tmp_path / "widths.svg").read_text()
    mutator.plot(str(tmp_path / "widths.png"), scores=build_criterion("l1"))
    assert (tmp_path / "widths.png").read_bytes().startswith(b"\x89PNG")
    for name in ("widths.doc", "widths"):
        with pytest.raises(ConfigError, match=rf"can't write a picture to '.*{name}'; its ending must be one of .*png"):
            mutator.plot(tmp_path / name)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        ({"first.0_(0, 8)": [1.0]}, ChoiceError, r"scores for 'first\.0_\(0, 8\)', which is no unit .* did you mean"),
        ({FIRST: [1.0, 2.0]}, ConfigError, r"'first\.0_.*' needs 8 finite scores, .* shape \(2,\)"),
        ({FIRST: [float("nan")] * 8}, ConfigError, "with others in it"),
        ("l1", ConfigError, r"scores must be a dict, .* or a criterion, such as build_criterion\('l1'\); got 'l1'"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores: Any, error: type[Exception], message: str) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(error, match=message):
        prepared().plot(scores=scores)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pictures need matplotlib; pip install 'lightning-channels\[plot\]'"):
        prepared().plot()


def test_there_must_be_something_to_draw() -> None:
    with pytest.raises(PrepareError, match="no model is prepared"):
        ChannelMutator().plot()
    pytest.importorskip("matplotlib")
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(nn.Sequential(nn.Linear(3, 2)), torch.randn(1, 3))
    with pytest.raises(ConfigError, match="no unit that can change, so there is nothing to draw"):
        mutator.plot()
