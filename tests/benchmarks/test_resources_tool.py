"""The resources benchmark: a model through its real process, and what it says about rows that are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import _resources, resources
from benchmarks._check import WrongResultError
from benchmarks._models import Example
from benchmarks.resources import main, section
from tests.benchmarks.coverage_nets import tiny


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    return ["--json", str(tmp_path / "rows.jsonl"), "--results", str(tmp_path / "RESULTS.md")]


def test_a_model_is_counted_and_stands_in_its_table(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tests.benchmarks.coverage_nets:tiny", *options]) == 0
    assert "1 of 1 equal" in capsys.readouterr().out
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert (row["status"], row["units"]) == ("ok", 2)
    text = (tmp_path / "RESULTS.md").read_text()
    cells = next(line for line in text.splitlines() if line.startswith("| other |")).strip("| ").split(" | ")
    assert cells[1:5] == ["1", "1", "0", "0"]
    assert cells[5] == cells[6] == f"{row['choices_per_s']:,.0f}"

    def no_process(*arguments: Any) -> dict[str, Any]:
        raise AssertionError(f"runs {arguments}")

    monkeypatch.setattr(resources, "run_one", no_process)
    assert main(["tests.benchmarks.coverage_nets:tiny", *options]) == 0  # all is known


def test_what_fails_is_said(
    tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"tool": "resources", "family": "other", "status": "failed", "reason": "out of memory"}
    monkeypatch.setattr(resources, "run_one", lambda name, tool, limits: {**failed, "model": name})
    assert main(["tests.benchmarks.coverage_nets:tiny", *options]) == 1
    assert "0 of 1 equal" in capsys.readouterr().out
    assert "- tests.benchmarks.coverage_nets:tiny: out of memory" in (tmp_path / "RESULTS.md").read_text()


def test_a_pattern_that_matches_no_model_leaves_the_files(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit, match=r"no model matches 'x\*'$"):
        main(["tests.benchmarks.coverage_nets:tiny", "--only", "x*", *options])
    assert list(tmp_path.iterdir()) == []


def test_a_family_is_summed_up() -> None:
    rows = [
        {"family": "timm", "model": "a", "status": "ok", "choices_per_s": 1000.4},
        {"family": "timm", "model": "b", "status": "ok", "choices_per_s": 3000.0},
        {"family": "timm", "model": "c", "status": "wrong", "reason": "flops at choice 1: 3, and torch says 4"},
        {"family": "segmentation", "model": "d", "status": "failed", "reason": "too slow"},
    ]
    text = section(rows)
    assert "| timm | 3 | 2 | 1 | 0 | 2,000 | 1,000 |" in text
    assert "| segmentation | 1 | 0 | 0 | 1 | - | - |" in text
    assert "- c: flops at choice 1: 3, and torch says 4\n- d: too slow" in text


def test_a_count_that_differs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def example() -> Any:
        torch.manual_seed(0)
        model, inputs = tiny()
        return Example(model.eval(), inputs)

    row: dict[str, Any] = {}
    _resources.measure(example(), row)
    assert row["units"] == 2
    assert row["choices_per_s"] > 0
    real = _resources.flops
    monkeypatch.setattr(_resources, "flops", lambda model, inputs: real(model, inputs) + 2)
    with pytest.raises(WrongResultError, match=r"flops at choice 0: ([\d,]+), and torch says"):
        _resources.measure(example(), {})
