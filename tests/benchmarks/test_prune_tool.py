"""The pruning benchmark: its own side through real processes, and what it says about rows that are given."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import _jobs, _prune_tables, _prune_task, prune
from benchmarks._prune_ours import prune as prune_ours
from benchmarks.prune import main
from tests.benchmarks.tool import Command

ROOT = Path(__file__).parents[2]
SEEDS = [0, 1, 2, 3, 4]


class Tool(Command):
    """Reads what it writes, and writes what it reads."""

    def lines(self, first: str) -> list[list[str]]:
        """The cells of all lines of tables that begin like that."""
        lines = self.results.read_text().splitlines()
        return [line.strip("| ").split(" | ") for line in lines if line.startswith(f"| {first} |")]

    def write(self, ours: Sequence[float], theirs: Sequence[float], ms: float = 1.0, **more: Any) -> None:
        """Rows of one criterion on the digits, alike at both targets."""
        self.json.parent.mkdir(exist_ok=True)
        with self.json.open("w") as file:
            for seed, pair in enumerate(zip(ours, theirs, strict=True)):
                sides = {
                    side: [self._entry(target, reached, time) for target in prune.TARGETS]
                    for side, reached, time in zip(("ours", "theirs"), pair, (ms, 1.0), strict=True)
                }
                row = {"tool": "prune", "model": f"digits, seed {seed}", "status": "ok", "criteria": {"l1": sides}}
                file.write(json.dumps(row | {"base": {"accuracy": 0.99, "macs": 1000, "parameters": 10}} | more) + "\n")

    @staticmethod
    def _entry(target: float, after: float, ms: float) -> dict[str, float]:
        cost = {"macs": 990 * target, "parameters": 4}
        return {"target": target, "before": 0.5, "after": after, "ms": ms, **cost}


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    """Nothing is installed, and no process runs unless a test lets it."""

    def no_process(*arguments: Any) -> dict[str, Any]:
        raise AssertionError(f"runs {arguments}")

    monkeypatch.setattr(prune._peers, "python_of", lambda peer, folder: Path(sys.executable))
    monkeypatch.setattr(prune, "row_of", no_process)
    return Tool(main, tmp_path)


ASKED = ("--networks", "digits", "--criteria", "l1")


def test_what_seeds_alone_explain_is_not_behind(tool: Tool) -> None:
    ours, theirs = [0.97, 0.98, 0.99, 0.96, 0.98], [0.98, 0.98, 0.98, 0.97, 0.98]
    tool.write(ours, theirs)
    assert tool(*ASKED, "--check") == 0
    (half, _), _, _ = (tool.lines("magnitude, L1")[start : start + 2] for start in (0, 2, 4))
    # -1, 0, 1, -1, 0: mean -0.2, standard deviation 0.8367, and 2.776 is Student's quantile for five
    spread = 2.7764451 * 0.8366600 / 5**0.5
    assert half == [
        "magnitude, L1",
        "0.5",
        *["50.0 %"] * 2,
        "97.6 %",
        "97.8 %",
        f"-0.20 ({-0.2 - spread:+.2f} … {-0.2 + spread:+.2f})",
        "1.00",
    ]
    costs, seeds = tool.lines("magnitude, L1")[2], tool.lines("magnitude, L1")[4]
    assert costs[1:4] == ["0.5", "0.495", "0.495"]
    assert seeds[2:] == [f"{100 * a:.2f} / {100 * b:.2f}" for a, b in zip(ours, theirs, strict=True)]
    # both targets are alike here, and so is their mean
    assert tool.lines("magnitude, L1")[6] == ["magnitude, L1", "-1.00", "+0.00", "+1.00", "-1.00", "+0.00", half[6]]
    entry = json.loads(tool.picture.read_text())["comparisons"][0]
    assert (entry["ours"], entry["theirs"]) == (ours, theirs)
    assert entry["interval"] == pytest.approx([(-0.2 - spread) / 100, (-0.2 + spread) / 100], abs=1e-6)


@pytest.mark.parametrize(
    ("lead", "ms", "message"),
    [
        ([-0.01, -0.02, -0.01, -0.02, -0.01], 1.0, "digits, l1 at 0.5: -2.08 to -0.72 points of"),
        ([0.01] * 5, 1.2, "digits, l1 at 0.25: the model takes 1.20 of the time of Torch-Pruning's"),
    ],
)
def test_the_check_fails_where_ours_is_behind(
    tool: Tool, capsys: pytest.CaptureFixture[str], lead: list[float], ms: float, message: str
) -> None:
    tool.write([0.95 + own for own in lead], [0.95] * 5, ms)
    assert tool(*ASKED, "--check") == 1
    assert message in capsys.readouterr().out
    assert message in tool.results.read_text()
    assert tool(*ASKED) == 0


def test_only_what_is_missing_is_measured(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool.write([0.97] * 2, [0.98] * 2)
    asked = []

    def measure(self: Any, network: str, seed: int, criteria: Sequence[str]) -> dict[str, Any]:
        asked.append((network, seed, list(criteria)))
        rows = {side: [Tool._entry(target, 0.9, 1.0) for target in prune.TARGETS] for side in ("ours", "theirs")}
        return {"status": "ok", "base": {"accuracy": 0.99, "macs": 1000}, "criteria": dict.fromkeys(criteria, rows)}

    monkeypatch.setattr(prune.Measure, "__call__", measure)
    options = ["--networks", "digits", "--criteria", "l1", "random", "--seeds", "0", "1", "2"]
    assert tool(*options) == 0
    assert sorted(asked) == [("digits", 0, ["random"]), ("digits", 1, ["random"]), ("digits", 2, ["l1", "random"])]
    assert tool.lines("magnitude, L1")[0][4] == "94.7 %"  # two that were known and a new one
    asked.clear()
    assert tool(*options) == 0
    assert asked == []


def test_a_process_that_fails_leaves_no_table(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prune, "row_of", lambda command, variables, seconds: {"error": "out of memory"})
    assert tool(*ASKED, "--seeds", "0") == 1
    assert "digits, seed 0: FAILED: train: out of memory" in capsys.readouterr().out
    assert not tool.results.exists()


# --- what is measured
# -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> _prune_task.Task:
    file = tmp_path_factory.mktemp("task") / "digits.pt"
    torch.manual_seed(0)
    model = _prune_task.build("digits")
    train, test = _prune_task.data("digits")
    _prune_task.fit(model, train, _prune_task.Recipe(20, 0.05), seed=0)
    _prune_task.Task.save("digits", file, model, train, test)
    return _prune_task.Task("digits", file)


def test_every_model_begins_as_the_file_says(task: _prune_task.Task) -> None:
    first, second = task.model(), task.model()
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).abs().sum() > 0
    assert _prune_task.accuracy(second, task.test) > 0.2


@pytest.mark.parametrize("criterion", [name for name in _prune_tables.NAMES if name != "l2"])
def test_our_side_is_as_cheap_as_asked_for(task: _prune_task.Task, criterion: str) -> None:
    full = _prune_task.macs(task.model(), task.example())
    models = list(prune_ours(task, criterion, [0.5, 0.25], seed=0))
    shares = [_prune_task.macs(model, task.example()) / full for model in models]
    assert 0.46 < shares[0] <= 0.5
    assert 0.22 < shares[1] <= 0.25
    assert all(type(module).__module__.split(".")[0] in ("torch", "slimmable") for module in models[0].modules())
    assert not models[0].training


def test_both_sides_see_the_same_batches(task: _prune_task.Task) -> None:
    class Watch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.seen: list[float] = []

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.append(float((x.flatten(1).double() ** 3).sum()))
            out: torch.Tensor = self.head(x.flatten(1))
            return out

    runs = []
    for noise in (0, 99):
        watch = Watch()
        torch.manual_seed(noise)  # whatever was drawn before
        _prune_task.fit(watch, task.train, _prune_task.Recipe(25, 0.01), seed=3)
        runs.append(watch.seen)
    assert runs[0] == runs[1]
    assert len(runs[0]) == len(set(runs[0])) == 25


def test_stripes_can_be_told_apart_by_their_direction() -> None:
    images, labels = _prune_task.gratings(200, seed=3)
    again, _ = _prune_task.gratings(200, seed=3)
    assert torch.equal(images, again)
    assert sorted(set(labels.tolist())) == list(range(10))
    # stripes that run along one axis hardly change along it
    changes = {label: images[labels == label].mean(1).diff(dim=2).square().mean().item() for label in range(10)}
    across = {label: images[labels == label].mean(1).diff(dim=1).square().mean().item() for label in range(10)}
    ratios = [changes[label] / across[label] for label in range(10)]
    assert ratios[0] < 0.9 * statistics.median(ratios)
    assert ratios[5] > 1.1 * statistics.median(ratios)


@pytest.mark.slow
def test_the_processes_measure_what_they_are_asked_for(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours stands for both sides: Torch-Pruning has an environment of its own, which isn't made here."""

    def row_of(command: Any, variables: dict[str, str], seconds: float) -> dict[str, Any]:
        if command(Path("x"))[3] == "theirs":
            rows = ours[-1]
            folder = Path(command(Path("x"))[command(Path("x")).index("--folder") + 1])
            for file in folder.glob("ours-*"):
                (folder / file.name.replace("ours", "theirs")).write_bytes(file.read_bytes())
            return json.loads(json.dumps(rows))
        row = real(command, variables, seconds)
        ours.append(row)
        return row

    ours: list[dict[str, Any]] = []
    real = _jobs.row_of
    monkeypatch.setattr(prune, "row_of", row_of)
    options = [*ASKED, "--quick", "--seeds", "0"]
    assert tool(*options) == 0, capsys.readouterr().out
    (line, quarter, *_) = tool.lines("magnitude, L1")
    assert line[6].startswith("+0.00 (")
    assert 0.3 < float(line[7]) < 3  # the same model twice
    assert [row["target"] for row in ours[1]["l1"]] == [0.5, 0.25]
    assert line[2] == f"{100 * ours[1]['l1'][0]['before']:.1f} %"
    assert quarter[4] == f"{100 * ours[1]['l1'][1]['after']:.1f} %"
    count = len(ours)
    assert tool(*options) == 0  # all is known
    assert len(ours) == count


def test_the_documentation_shows_the_figures_of_the_last_run() -> None:
    figures = json.loads((ROOT / "docs/pictures/prune.json").read_text())
    assert figures["seeds"] == SEEDS
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in ("docs/howto/pruned.md", "benchmarks/RESULTS.md")]
    for entry in figures["comparisons"]:
        after = [f"{100 * statistics.mean(entry[side]):.1f} %" for side in ("ours", "theirs")]
        start = f"| {entry['name']} | {entry['target']:g} | "
        for text in texts:
            lines = [line for line in text.splitlines() if line.startswith(start)]
            assert any(line.split(" | ")[4:6] == after for line in lines), start
