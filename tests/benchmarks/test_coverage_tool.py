"""The coverage tool through its real processes, on networks that are right, wrong, slow, greedy or deadly."""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import _exceptions, _models
from benchmarks._check import doubled, narrowed_share, outputs, relative, train_outputs, zero_inputs
from benchmarks._results import write_section
from benchmarks.coverage import main

sys.path.insert(0, str(Path(__file__).parent))
from coverage_nets import Tiny, tiny


@pytest.fixture(autouse=True)
def _nets_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


class Tool:
    """The command line with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.json, self.results = folder / "raw" / "rows.jsonl", folder / "RESULTS.md"

    def __call__(self, *arguments: str) -> int:
        return main([*arguments, "--json", str(self.json), "--results", str(self.results)])

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.json.read_text().splitlines()]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    return Tool(tmp_path)


def test_a_right_model_is_measured_once_and_stands_between_the_markers(
    tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.results.write_text("# Results\n\nMine.\n\n<!-- other -->\nkept\n<!-- /other -->\n")
    assert tool("coverage_nets:tiny") == 0
    (row,) = tool.rows
    assert (row["status"], row["exact"], row["train"]) == ("ok", True, "")
    assert row["params"] == sum(p.numel() for p in Tiny().parameters())
    half = Tiny()  # 8 → 4, 12 → 6
    half.stem, half.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
    half.inner, half.head = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 5)
    assert row["kept"] == sum(p.numel() for p in half.parameters()) / row["params"]
    assert row["reached"] == 1 - 5 / row["params"]  # all but the head's bias
    assert row["flops_half"] == 2 * (64 * 9 * (3 * 4 + 4 * 6) + 6 * 5)
    assert row["masked_error"] < 1e-12 < row["masked_effect"]
    text = tool.results.read_text()
    assert text.startswith("# Results\n\nMine.\n\n<!-- other -->\nkept\n<!-- /other -->\n")
    assert "| coverage_nets:tiny | yes | yes |" in text

    assert tool("coverage_nets:tiny") == 0
    assert len(tool.rows) == 1
    assert "1 models, 1 measured before" in capsys.readouterr().out
    assert tool.results.read_text() == text
    assert tool("coverage_nets:tiny", "--again", "all") == 0
    assert len(tool.rows) == 2


def test_a_model_that_lies_when_narrow_is_wrong(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("coverage_nets:liar", "--options", '{"verify": false}') == 1
    (row,) = tool.rows
    assert row["status"] == "wrong"
    assert "masked original, half widths" in row["reason"]
    assert "e-0" in row["reason"]
    assert "coverage_nets:liar: WRONG: narrowed and masked" in capsys.readouterr().out
    assert "| coverage_nets:liar | **WRONG** |" in tool.results.read_text()


def test_a_model_that_hangs_is_stopped(tool: Tool) -> None:
    assert tool("coverage_nets:sleeper", "--timeout", "3") == 1
    assert tool.rows[0]["status"] == "failed"
    assert tool.rows[0]["reason"] == "took longer than the limit of 3 s"


def test_a_process_that_dies_stops_no_other(tool: Tool) -> None:
    assert tool("coverage_nets:dies", "coverage_nets:tiny", "--jobs", "2") == 1
    rows = {row["model"]: row for row in tool.rows}
    assert (rows["coverage_nets:dies"]["status"], rows["coverage_nets:tiny"]["status"]) == ("failed", "ok")
    assert rows["coverage_nets:dies"]["reason"] == "the process ended with -9"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory take Linux")
def test_the_memory_limit_is_a_reason(tool: Tool) -> None:
    assert tool("coverage_nets:greedy", "--memory", "4") == 1
    assert tool.rows[0]["reason"].startswith("reached the memory limit")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet5000",), "no model 'resnet5000'; did you mean 'resnet50'?"),
        (("resnet50", "--only", "x*"), r"no model matches 'x\*'"),
    ],
)
def test_bad_names(tool: Tool, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        tool(*arguments)


def test_a_file_that_is_something_else_is_refused(tool: Tool) -> None:
    tool.json.parent.mkdir()
    tool.json.write_text("[1, 2]\n")
    with pytest.raises(SystemExit, match=r"rows\.jsonl:1 is no row"):
        tool("coverage_nets:tiny")


def test_the_lists(tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("--family", "timm", "--family", "segmentation", "--list") == 0
    names = capsys.readouterr().out.split()
    assert len(names) == 56
    assert {"timm:dla34", "fcn_resnet50"} <= set(names)
    assert len(_models.names_of("classification")) >= 80


# --- parts
# -----------------------------------------------------------------------------------------------------------------


def test_relative_differences() -> None:
    one, nan = torch.ones(2), torch.full((2,), math.nan)
    assert relative([one], [one]) == 0
    assert relative([one * 1.5], [one]) == 0.5
    for other in ([one, one], [torch.ones(3)], [nan]):
        assert relative(other, [one]) == math.inf


def test_train_outputs_have_no_dropout_and_leave_the_statistics_alone() -> None:
    model, inputs = tiny()
    before = copy.deepcopy(model.state_dict())
    first, second = train_outputs(model, doubled(inputs)), train_outputs(model, doubled(inputs))
    assert relative(first, second) == 0
    assert relative(first, outputs(model, doubled(inputs))) > 1e-3  # batch statistics
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert model.drop.p == 0.5
    assert not model.training


def test_results_of_heads_are_read_instead() -> None:
    model, inputs = tiny()
    (own,) = outputs(model, inputs, ("head",))
    assert torch.equal(own, outputs(model, inputs)[0])
    first, second = outputs(model, inputs, ("stem", "inner"))
    assert (first.shape, second.shape) == ((1, 8, 8, 8), (1, 12, 8, 8))
    assert not model.stem._forward_hooks


@pytest.mark.parametrize(
    ("module", "zero", "nonzero"),
    [
        (nn.Linear(4, 2), (slice(None), 1), (slice(None), 0)),
        (nn.Conv2d(4, 2, 1), (slice(None), 1), (slice(None), 0)),
        (nn.Conv2d(4, 2, 1, groups=2), (slice(None), 1), (slice(None), 0)),
        (nn.ConvTranspose2d(4, 2, 1), (1,), (0,)),
    ],
)
def test_zeroed_inputs(module: nn.Module, zero: tuple[Any, ...], nonzero: tuple[Any, ...]) -> None:
    zero_inputs(module, torch.tensor([1, 3] if getattr(module, "groups", 1) == 2 else [1]))
    assert not module.weight[zero].any()
    assert module.weight[nonzero].all()


@pytest.mark.parametrize("module", [nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4), nn.ReLU()])
def test_what_mixes_no_channels_is_left_alone(module: nn.Module) -> None:
    before = copy.deepcopy(module.state_dict())
    zero_inputs(module, torch.tensor([1]))
    assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())


def test_shares() -> None:
    before, after = {"a": torch.Size([2, 3]), "b": torch.Size([4])}, {"a": torch.Size([1, 3]), "b": torch.Size([4])}
    assert narrowed_share(before, after) == (0.6, 0.7)


def test_constant_tensors_get_values() -> None:
    model = _models.randomise(nn.Sequential(nn.BatchNorm2d(8), nn.PReLU()))
    assert all(len(t.unique()) == 8 for t in [*model[0].parameters(), model[0].running_mean, model[0].running_var])
    assert model[1].weight.item() == 0.25
    gain = nn.Linear(1, 1)
    nn.init.zeros_(gain.weight)
    assert _models.randomise(gain).weight.item() == 0.5


@pytest.mark.parametrize("text", ["<!-- a -->\n", "<!-- a --><!-- /a --><!-- a --><!-- /a -->"])
def test_a_broken_section_is_not_guessed_at(tmp_path: Path, text: str) -> None:
    path = tmp_path / "R.md"
    path.write_text(text)
    with pytest.raises(SystemExit, match="once each"):
        write_section(path, "a", "new")
    assert path.read_text() == text


def test_exceptions(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    path.write_text('[models]\nodd = "its head"\n')
    own = _exceptions.load(path)

    def row(model: str, reached: float) -> dict[str, Any]:
        held = [{"unit": "u", "share": 0.5, "reason": "why"}]
        return {"model": model, "family": "classification", "reached": reached, "refused": held}

    assert own.problems([row("odd", 0.899), *(row(f"n{i}", 1.0) for i in range(20))]) == []
    assert own.problem(row("cnn", 0.899)) == "cnn: only 89.9% of its parameters are in a mutable unit (u: why)"
    assert own.problem(row("odd", 0.9)).endswith("its exception is not needed")
    assert own.problems([row("a", 0.98)]) == [
        "classification: 98.0% of the parameters are in a mutable unit on average, not 99%"
    ]
    path.write_text('[models]\nodd = " "\n')
    with pytest.raises(SystemExit, match="'odd' must say why"):
        _exceptions.load(path)
