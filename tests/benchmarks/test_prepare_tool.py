"""The preparation benchmark through its real processes, without the peers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import prepare
from benchmarks.prepare import PARTS, Case, main, misses


def test_a_model_is_measured_and_stands_in_its_section(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    options = ["--part", "depth", "--only", "resnet18", "--repeat", "1", "--no-peers", "--clock", "cpu", "--check"]
    assert main([*options, "--results", str(path)]) == 0
    text = path.read_text()
    assert "<!-- prepare depth -->" in text
    assert "<!-- prepare peers -->" not in text
    cells = next(line for line in text.splitlines() if line.startswith("| resnet18 |")).split(" | ")
    forward, traced, prepared = (float(cell.removesuffix(" s")) for cell in cells[1:4])
    assert forward > 0
    assert traced > 0
    assert prepared > 0
    assert set(cells[4:9]) == {"-"}  # without the peers there is no ratio
    assert float(cells[9].strip(" |")) >= 0.5


def test_what_is_beyond_a_ratio_is_said() -> None:
    times = {"traced": 1.1, "prepared": 4.4, "torch-pruning": 1.0, "modelopt": None, "forward": 0.1, "memory": 1.5}
    assert list(misses(Case("resnet50"), times)) == [
        "resnet50: traced in 1.10 of Torch-Pruning's time, not 1",
        "resnet50: 1.50 of twice the model and one forward's activations, not 1",
    ]
    assert list(misses(Case("densenet201"), times | {"traced": 0.1, "memory": None})) == [
        "densenet201: prepared in 4.40 of Torch-Pruning's time, not 1"
    ]
    assert list(misses(Case("resnet50"), times | {"torch-pruning": None, "memory": 1.0})) == []


def test_the_tools_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def once(python: Path, step: str, case: Case, arguments: object) -> dict[str, object]:
        asked.append(step)
        if step == "memory":
            return {"model": 10, "activations": 10, "extra": 30}
        if step == "b":
            return {"error": "fails"}
        return {"took": {"wall": float(len(asked)), "cpu": 0.0}, "forward": {"wall": 0.5, "cpu": 0.0}}

    monkeypatch.setattr(prepare, "once", once)
    times = prepare.measure(Case("x"), dict.fromkeys("abc", Path()), prepare.parse(["--repeat", "3"]))
    assert asked == ["a", "b", "c", "c", "a", "a", "c", "memory"]
    assert times == {"a": 5.0, "b": None, "c": 4.0, "forward": 0.5, "memory": 4 / 3}


def test_names_are_those_of_the_budget() -> None:
    compared = {case.name for case in PARTS["peers"]}
    assert {
        "resnet50",
        "mobilenet_v2",
        "densenet201",
        "convnext_tiny",
        "vit_b_16",
        "efficientnet_b4",
        "swin_t",
    } == compared
    with pytest.raises(SystemExit, match="no model matches 'vgg'"):
        main(["--only", "vgg"])
