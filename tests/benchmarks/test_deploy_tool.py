"""The benchmark of deployed subnets: what it builds and what it says of rows that are given, not its timings."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from benchmarks import _deploy, deploy
from benchmarks._deploy import FULL, UNIFORM, build, measure, take_turns
from benchmarks._deploy_tables import Measured, misses, recommended
from benchmarks.deploy import main, parse, tool_of
from lightning_channels import recommended_divisor

SMALL = ["--models", "small", "--runtimes", "eager", "--batches", "2", "--divisors", "1", "8", "--size", "8"]
QUICK = ["--repeat", "3", "--sample", "0.001", "--threads", "1"]


def small_net(*_: Any, **__: Any) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts run in this process, on a small net; their names in order."""
    parts: list[str] = []

    def process(part: str, model: str, folder: Path, arguments: argparse.Namespace, *more: str) -> dict[str, Any]:
        own = argparse.Namespace(**{**vars(arguments), "batch": int(more[1]) if more else 1})
        parts.append(part)
        return build(model, folder, own) if part == "build" else measure(part, folder, own)

    monkeypatch.setattr(torchvision.models, "get_model", small_net)
    monkeypatch.setattr(deploy, "process", process)
    return parts


def files(folder: Path) -> list[str]:
    return ["--json", str(folder / "raw/rows.jsonl"), "--results", str(folder / "RESULTS.md")]


def test_it_measures_what_is_missing_and_writes_tables(here: list[str], tmp_path: Path) -> None:
    arguments = [*SMALL, *QUICK, *files(tmp_path)]
    assert main(arguments) == 0
    assert here == ["build", "eager"]
    assert main(arguments) == 0
    assert here == ["build", "eager"]
    assert main([*arguments, "--batches", "2", "1"]) == 0
    assert here == ["build", "eager", "build", "eager"]
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.count("<!-- deploy -->") == text.count("### PyTorch, eager") == 1
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| small")]
    assert [row[:2] for row in cells[:2]] == [["small", "2"], ["small", "1"]]
    assert all(float(value) > 0 for row in cells[:2] for value in row[2:])
    assert [row[0] for row in cells[2:]] == ["small, divisor 1", "small, divisor 8", f"small, {UNIFORM}"]
    assert all(0.1 < float(row[1]) <= 0.5 for row in cells[2:])


def test_subnets_have_widths_of_the_divisor(here: list[str], tmp_path: Path) -> None:
    arguments = parse([*SMALL, *QUICK])
    left = build("small", tmp_path, arguments)["left"]
    assert left[FULL] == dict.fromkeys(("macs", "flops", "params", "activations"), 1.0)
    for variant, divisor in (("1", 1), ("8", 8), (UNIFORM, 8)):
        net = torch.load(tmp_path / f"{variant}.pt", weights_only=False)
        assert left[variant]["macs"] <= 0.5
        widths = [net[0].out_channels, net[3].out_channels]
        assert all(width % divisor == 0 for width in widths)
        assert widths < [24, 32]
    assert not list(tmp_path.glob("*.onnx"))


def test_onnxruntime_returns_what_pytorch_does(here: list[str], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    arguments = parse([*SMALL, "--runtimes", "onnxruntime", "--divisors", "8", *QUICK])
    build("small", tmp_path, arguments)
    images = torch.randn(3, 3, 8, 8)  # another batch than the one that was exported
    for variant in (FULL, "8", UNIFORM):
        with torch.no_grad():
            expected = _deploy.RUNTIMES["eager"](tmp_path / variant, images)()
        (found,) = _deploy.RUNTIMES["onnxruntime"](tmp_path / variant, images)()
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_a_part_has_a_process_of_its_own(tmp_path: Path) -> None:
    row = deploy.process("eager", "resnet18", tmp_path, parse([*SMALL, *QUICK]), "--batch", "2")
    assert "FileNotFoundError" in row["error"]


def test_turns_alternate() -> None:
    order: list[str] = []
    found = take_turns({name: lambda name=name: order.append(name) for name in "ab"}, 3, 1e-9)
    assert "".join(order) == "baabbaabba"
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3}
    with pytest.raises(SystemExit):
        parse(["--target", "1"])
    with pytest.raises(SystemExit):
        parse(["--divisors", "0"])


def measured(runtime: str, batch: int, model: str = "resnet50", **speeds: float) -> Measured:
    """Each divisor's median speed-up; the full model takes 6 s, and an outlier changes nothing."""
    seconds = {FULL: [6.0, 6.0, 6.0]}
    seconds |= {name.strip("d"): [6.0 / speed, 6.0 / speed, 60.0] for name, speed in speeds.items()}
    return Measured(model, runtime, batch, seconds)


def test_the_recommended_divisor_is_judged() -> None:
    divisors = [1, 8, 16]
    own = f"d{recommended_divisor('onnxruntime', 'cpu')}"
    fine = {"d1": 1.2, "d8": 1.45, "d16": 1.45} | {own: 1.5}
    assert measured("eager", 1, d8=1.5).speedup(8) == 1.5
    assert list(misses([measured("onnxruntime", 1, **fine), measured("onnxruntime", 16, **fine)], divisors)) == []
    slow = measured("onnxruntime", 1, **(fine | {own: 1.48}))
    assert list(misses([slow], divisors)) == [
        f"resnet50, onnxruntime, batch 1: 1.48 times as fast, not 1.5, with the divisor {own[1:]}"
    ]
    assert list(misses([measured("onnxruntime", 1, "mobilenet_v2", **(fine | {own: 1.48}))], divisors)) == []
    worse = measured("onnxruntime", 16, **(fine | {"d1": 1.9}))
    assert list(misses([worse], divisors)) == [f"onnxruntime: divisor 1 gives 1.90, and the recommended {own[1:]} 1.50"]
    assert recommended("cuda-compile") == recommended("cuda") == 8


def test_what_failed_is_said_and_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def process(part: str, *_: Any) -> dict[str, Any]:
        asked.append(part)
        return {"left": {}} if part == "build" else {"error": "took longer than 900 s"}

    monkeypatch.setattr(deploy, "process", process)
    arguments = [*SMALL, *files(tmp_path)]
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 1
    assert asked == ["build", "eager"] * 2
    assert "small, eager, batch 2: took longer than 900 s" in capsys.readouterr().out
    assert not (tmp_path / "RESULTS.md").exists()
    rows = [json.loads(line) for line in (tmp_path / "raw/rows.jsonl").read_text().splitlines()]
    assert {row["tool"] for row in rows} == {tool_of(parse(SMALL))}
