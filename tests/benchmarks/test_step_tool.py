"""The training-step benchmark: its rows and what it judges, not its timings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _step, step
from benchmarks.step import BUDGETS, MODELS, main, measure, misses, once, parse

SMALL = ["--models", "resnet18", "--size", "32", "--batch", "2", "--repeat", "1"]


@pytest.fixture(scope="module")
def steps() -> _step.Steps:
    return _step.Steps("resnet18", 32, 4, 2, 1)


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_both_sides_compute_the_same(steps: _step.Steps, memory: _step.Memory) -> None:
    twins = steps.twins()
    steps.module.zero_grad()
    steps.sandwich(memory)()
    steps.by_hand(memory, twins)()
    own = dict(steps.module.net.named_parameters())
    expected = {name: torch.zeros_like(value) for name, value in own.items()}
    for twin in twins:
        for name, value in twin.named_parameters():
            assert value.grad is not None
            expected[name][tuple(slice(size) for size in value.shape)] += value.grad
    for name, value in own.items():
        assert value.grad is not None
        error = float((value.grad - expected[name]).norm() / expected[name].norm().clamp_min(1e-6))
        assert error < 1e-3, name


def test_a_model_is_measured_and_stands_in_its_section(
    steps: _step.Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def here(measurement: str, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
        return _step.MEASUREMENTS[measurement](steps, arguments.repeat)

    monkeypatch.setattr(step, "once", here)
    path = tmp_path / "RESULTS.md"
    assert main([*SMALL, "--results", str(path)]) == 0
    text = path.read_text()
    assert "<!-- step -->" in text
    cells = next(line for line in text.splitlines() if line.startswith("| resnet18 |")).strip("| ").split(" | ")
    assert cells[1] == "1, 0.25, 0.5, 0.75"
    assert len(cells) == 10
    times = [float(cell) for place, cell in enumerate(cells) if place in (2, 5, 7, 8)]
    assert all(time > 0 for time in times)
    assert float(cells[9].removesuffix("%")) > 0


def test_each_measurement_has_a_process() -> None:
    row = once("fast", "resnet18", parse(SMALL))
    assert row["widths"] == [1.0, 0.25, 0.5, 0.75]
    ((own, theirs),) = row["pairs"]["wall"]
    assert own > 0
    assert theirs > 0
    assert "no_such_net" in once("full", "no_such_net", parse(SMALL))["error"]


def injected(monkeypatch: pytest.MonkeyPatch, **changed: dict[str, Any]) -> None:
    rows: dict[str, dict[str, Any]] = {
        name: {"pairs": {"wall": [(1.0, 1.0), (1.04, 1.0), (9.0, 1.0)]}} for name in ("fast", "lean", "full", "half")
    }
    rows["fast"]["widths"] = [1.0, 0.25]
    rows["draw"] = {"pairs": {"wall": [(0.001, 1.0)]}}
    rows |= {name: {"peak": 100, "gradients": 20, "from_none": 120} for name in step._PEAKS}
    rows |= changed
    monkeypatch.setattr(step, "once", lambda measurement, *_: rows[measurement])


def test_medians_of_pairs_are_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["--models", "x", "--check", "--results", str(tmp_path / "RESULTS.md")]
    injected(monkeypatch)
    assert main(arguments) == 0
    widths, ratios = measure("x", parse([]))
    assert widths == [1.0, 0.25]
    assert ratios == {
        "fast time": 1.04,
        "lean time": 1.04,
        "full / plain": 1.04,
        "half / twin": 1.04,
        "draw / step": 0.001,
        "fast memory": 1.0,
        "lean memory": 1.0,
        "with gradients": 1.0,
    }
    for changed in ({"peak-lean": {"peak": 111}}, {"lean": {"pairs": {"wall": [(1.06, 1.0)]}}}):
        injected(monkeypatch, **changed)
        assert main(arguments) == 1
        assert main([argument for argument in arguments if argument != "--check"]) == 0


def test_what_is_beyond_a_budget_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    good: dict[str, float | None] = dict(BUDGETS)
    assert list(misses("x", good)) == []
    assert list(misses("x", good | {"fast memory": 1.2, "lean time": 1.06, "full / plain": 2.0})) == [
        "x: fast memory is 1.200 of the plain one's, not 1.05",
        "x: lean time is 1.060 of the plain one's, not 1.05",
    ]
    injected(monkeypatch, **{"peak-pass": {"error": "fails"}})
    assert list(misses("x", measure("x", parse([]))[1])) == ["x: lean memory couldn't be measured"]


def test_the_models_are_those_of_the_budget() -> None:
    assert parse([]).models == list(MODELS) == ["resnet50", "mobilenet_v2", "convnext_tiny", "densenet121"]
    with pytest.raises(SystemExit):
        parse(["--repeat", "0"])
