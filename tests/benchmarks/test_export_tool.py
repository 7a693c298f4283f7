"""The table of formats says what holds, what is wrong, and whether the plain model fails alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import export
from benchmarks._jobs import Store


def row(model: str, status: str = "ok", **formats: Any) -> dict[str, Any]:
    held = {"seconds": 2.0, "bytes": 5, "error": 1e-6}
    names = ("subnet.yaml", "weights.safetensors", "model.pt2", "model.onnx")
    found = {name: formats.get(name.split(".")[-1], held) for name in names}
    return {
        "tool": "export",
        "model": model,
        "family": "segmentation",
        "status": status,
        "reason": "",
        "formats": found,
    }


ROWS = [
    row("good"),
    row("inexact", "wrong", pt2={"seconds": 1.0, "error": 2e-4}),
    row("ours", "failed", onnx={"reason": "no operator", "plain": "works"}),
    row("theirs", "failed", onnx={"reason": "no operator", "plain": "no operator either"}),
    {"tool": "export", "model": "dead", "family": "segmentation", "status": "failed", "reason": "took longer"},
]


def test_the_table() -> None:
    text = export.section(ROWS)
    assert "| segmentation, `subnet.yaml` | 5 | 4 | 0 | 1 | 1.0e-06 |" in text
    assert "| segmentation, `.pt2` | 5 | 3 | 1 | 1 | 1.0e-06 |" in text
    assert "| segmentation, ONNX | 5 | 2 | 0 | 3 | 1.0e-06 |" in text
    assert "- inexact, `.pt2`, wrong: differs by 2.0e-04\n" in text
    assert "- ours, ONNX, not possible: no operator The plain model can be written.\n" in text
    assert "- theirs, ONNX, not possible: no operator The plain model can't be written either.\n" in text
    assert text.count("- dead, ") == 4
    assert "Tried, segmentation: dead, good, inexact, ours, theirs." in text


def test_what_was_measured_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {name: row(name) for name in ("alexnet", "resnet18")} | {"vgg11": row("vgg11", "failed")}
    asked: list[str] = []

    def measured(model: str, *_: Any) -> dict[str, Any]:
        asked.append(model)
        return rows[model]

    monkeypatch.setattr(export, "run_one", measured)
    files = ["--json", str(tmp_path / "rows.jsonl"), "--results", str(tmp_path / "RESULTS.md")]
    assert export.main(["alexnet", "resnet18", *files]) == 0
    assert export.main(["alexnet", "vgg11", *files]) == 1
    assert asked == ["alexnet", "resnet18", "vgg11"]
    assert len(Store(tmp_path / "rows.jsonl").rows) == 3
    assert "| segmentation, ONNX | 3 | 3 |" in (tmp_path / "RESULTS.md").read_text()
    with pytest.raises(SystemExit, match="torchvision has no model 'resnet81'"):
        export.main(["resnet81", *files])
