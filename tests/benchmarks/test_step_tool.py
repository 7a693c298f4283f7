"""The training-step benchmark: its rows and what it judges, not its timings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _sandwich_step, _single_step, _step, step
from benchmarks._step_tables import SANDWICH, SINGLE
from benchmarks.step import main, measure, once, parse

SMALL = ["--models", "resnet18", "--size", "32", "--batch", "2", "--repeat", "1", "--seconds", "0"]
MEASUREMENTS = {**_sandwich_step.MEASUREMENTS, **_single_step.MEASUREMENTS}


@pytest.fixture(scope="module")
def steps() -> _step.Steps:
    return _step.Steps("resnet18", 32, 4, 1)


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_both_sides_compute_the_same(steps: _step.Steps, memory: _sandwich_step.Memory) -> None:
    with _sandwich_step.Sandwich(steps, 2, 1) as sandwich:
        twins = sandwich.twins()
        steps.module.zero_grad()
        sandwich.own(memory)()
        sandwich.by_hand(memory, twins)()
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


def test_the_floor_has_the_gradients_of_a_narrow_step(steps: _step.Steps) -> None:
    half = steps.half()
    floor = _single_step._Whole(steps.twin(half), steps.plain)
    steps.mutator.set_choices(half)
    steps.module.net.zero_grad()
    try:
        for model in (floor, steps.module.net):
            steps.step(model)()
    finally:
        steps.mutator.set_choices(steps.full())
    for name, value in steps.module.net.named_parameters():
        assert value.grad is not None
        error = float((value.grad - floor.gradients[name]).norm() / value.grad.norm().clamp_min(1e-6))
        assert error < 1e-3, name
    floor.zero_grad()
    assert not floor.gradients


def cells_of(steps: _step.Steps, monkeypatch: pytest.MonkeyPatch, path: Path, only: str) -> dict[str, str]:
    """The row of a run, by column."""

    def here(measurement: str, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
        return MEASUREMENTS[measurement](steps, arguments)

    monkeypatch.setattr(step, "once", here)
    assert main([*SMALL, "--only", only, "--results", str(path)]) == 0
    text = path.read_text()
    assert f"<!-- step-{only} -->" in text
    assert "{" not in text
    head, row = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith(("| model ", "| resnet18 "))
    )
    return dict(zip(head, row, strict=True))


def test_a_sandwich_is_measured_and_stands_in_its_section(
    steps: _step.Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cells = cells_of(steps, monkeypatch, tmp_path / "RESULTS.md", "sandwich")
    assert list(cells) == ["model", *SANDWICH.columns]
    assert all(float(cells[name]) > 0 for name in ("fast time", "lean time"))


def test_a_single_width_is_measured_and_stands_in_its_section(
    steps: _step.Steps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cells = cells_of(steps, monkeypatch, tmp_path / "RESULTS.md", "single")
    assert list(cells) == ["model", *SINGLE.columns]
    assert all(float(value) > 0 for name, value in cells.items() if name != "model")
    assert 1 < float(cells["memory"]) < 1.01  # these two are counted, not timed
    assert 1 < float(cells["checkpoint"]) < 1.01
    assert 0 < float(cells["checkpoint, KiB more"]) < 200


def test_each_measurement_has_a_process() -> None:
    row = once("fast", "resnet18", parse(SMALL))
    assert row["widths"] == [1.0, 0.25, 0.5, 0.75]
    ((own, theirs),) = row["pairs"]["wall"]
    assert own > 0
    assert theirs > 0
    assert "no_such_net" in once("full", "no_such_net", parse(SMALL))["error"]


def injected(monkeypatch: pytest.MonkeyPatch, **changed: dict[str, Any]) -> None:
    pairs = {"pairs": {"wall": [(1.0, 1.0), (1.02, 1.0), (9.0, 1.0)]}}
    rows: dict[str, dict[str, Any]] = dict.fromkeys((*SANDWICH.measurements, *SINGLE.measurements), pairs)
    rows |= {name: {"peak": 100, "gradients": 20, "from_none": 120} for name in rows if name.startswith("peak")}
    rows["draw"] = {"seconds": [0.001, 0.0002, 0.0001]}
    rows["kept"] = {"memory": [1005, 1000], "checkpoint": [4096, 2048]}
    rows |= changed
    monkeypatch.setattr(step, "once", lambda measurement, *_: rows[measurement])


def test_medians_of_pairs_are_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["--models", "x", "--check", "--results", str(tmp_path / "RESULTS.md")]
    injected(monkeypatch)
    assert main(arguments) == 0
    assert measure(SANDWICH, "x", parse([])) == {
        "fast time": 1.02,
        "lean time": 1.02,
        "fast memory": 1.0,
        "lean memory": 1.0,
        "with gradients": 1.0,
    }
    single = measure(SINGLE, "x", parse([]))
    assert {single[name] for name in ("full / plain", "half / twin", "optimizer", "all-reduce")} == {1.02}
    assert single["draw, ms"] == pytest.approx(0.2)
    assert single["memory"] == 1.005
    assert (single["checkpoint"], single["checkpoint, KiB more"]) == (2.0, 2.0)
    for changed in (
        {"peak-lean": {"peak": 111}},
        {"half": {"pairs": {"wall": [(1.05, 1.0)]}}},
        {"draw": {"seconds": [0.0004]}},
        {"kept": {"memory": [1011, 1000], "checkpoint": [1, 1]}},
    ):
        injected(monkeypatch, **changed)
        assert main(arguments) == 1
        assert main([argument for argument in arguments if argument != "--check"]) == 0


def test_what_is_beyond_a_budget_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    good: dict[str, float | None] = dict(SANDWICH.budgets)
    assert list(SANDWICH.misses("x", good)) == []
    assert list(SANDWICH.misses("x", good | {"with gradients": 1.2, "fast time": 1.06})) == [
        "x: fast time is 1.060, not 1.05",
        "x: with gradients is 1.200, not 1.05",
    ]
    injected(monkeypatch, **{"peak-pass": {"error": "fails"}})
    assert list(SANDWICH.misses("x", measure(SANDWICH, "x", parse([])))) == ["x: lean memory couldn't be measured"]


def test_more_may_be_added_to_a_checkpoint_that_is_large() -> None:
    fine: dict[str, float | None] = dict(SINGLE.budgets)
    beyond = fine | {"checkpoint, KiB more": 900.0}
    assert list(SINGLE.misses("x", beyond | {"checkpoint": 1.009})) == []
    assert list(SINGLE.misses("x", beyond | {"checkpoint": 1.02})) == ["x: checkpoint, KiB more is 900.000, not 200"]
    assert list(SINGLE.misses("densenet201", fine | {"draw, ms": 0.9})) == []


def test_the_models_are_those_of_the_budget() -> None:
    assert SANDWICH.models == ("resnet50", "mobilenet_v2", "convnext_tiny", "densenet121")
    assert SINGLE.models == ("resnet50", "mobilenet_v2", "convnext_tiny", "efficientnet_b4", "vit_b_16", "densenet201")
    assert parse([]).models is None
    for option in ("--repeat", "--batch"):
        with pytest.raises(SystemExit):
            parse([option, "0"])
