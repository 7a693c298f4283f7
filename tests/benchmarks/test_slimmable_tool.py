"""The slimmable benchmark: short trainings through its real processes, and what it says about rows that are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from benchmarks import _slimmable, slimmable
from benchmarks.slimmable import Width, main, summary
from tests.benchmarks.tool import Command

ROOT = Path(__file__).parents[2]
FLOPS = {1.0: 1_527_040, 0.75: 862_656, 0.5: 386_688, 0.25: 99_136}


class Tool(Command):
    """Reads what it writes, and writes what it reads."""

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["model"]: row for row in map(json.loads, self.json.read_text().splitlines())}

    def table(self, first: str) -> list[list[str]]:
        """The cells of the table whose first heading that is."""
        lines = iter(self.results.read_text().splitlines())
        head = next(line for line in lines if line.startswith(f"| {first} |"))
        next(lines)
        rows = [head]
        while (line := next(lines)).startswith("|"):
            rows.append(line)
        return [row.strip("| ").split(" | ") for row in rows]

    def write(self, sandwich: Sequence[float], alone: Sequence[float], seeds: int = 2, **more: Any) -> None:
        """Rows as trainings of 40 epochs would leave them, alike for all seeds."""
        self.json.parent.mkdir(exist_ok=True)
        with self.json.open("w") as file:
            for seed in range(seeds):
                together = [self._entry(width, reached) for width, reached in zip(FLOPS, sandwich, strict=True)]
                rows = {slimmable.name_of(seed, None): together}
                for width, reached in zip(FLOPS, alone, strict=True):
                    rows[slimmable.name_of(seed, width)] = [self._entry(width, reached) | {"recalibrated": 0.9}]
                for name, widths in rows.items():
                    row = {"tool": "slimmable, 40 epochs", "model": name, "status": "ok", "widths": widths, **more}
                    file.write(json.dumps(row) + "\n")

    @staticmethod
    def _entry(width: float, accuracy: float) -> dict[str, Any]:
        return {"width": width, "accuracy": accuracy, "flops": FLOPS[width]}


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    return Tool(main, tmp_path)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def once(options: Sequence[str], timeout: float) -> dict[str, Any]:
        raise AssertionError(f"trains {options}")

    monkeypatch.setattr(slimmable, "once", once)


@pytest.mark.slow
def test_what_is_trained_stands_in_the_tables_and_is_not_trained_again(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--seeds", "0", "--widths", "0.5", "1"]
    assert tool(*options, "--check") == 1  # one epoch is too short for what is promised
    assert "not 98.5%" in capsys.readouterr().out
    assert set(tool.rows) == {"sandwich, seed 0", "alone at 1, seed 0", "alone at 0.5, seed 0"}
    assert len(tool.rows["sandwich, seed 0"]["widths"]) == 4
    (own,) = tool.rows["alone at 0.5, seed 0"]["widths"]
    assert own["flops"] == FLOPS[0.5]
    assert 0.2 < own["accuracy"] < 1

    head, *rows = tool.table("width")
    assert head == ["width", "MFLOPs", "sandwich", "trained alone", "difference"]
    assert [row[:2] for row in rows] == [["1", "1.53"], ["0.5", "0.39"]]
    assert rows[1][3] == f"{100 * own['accuracy']:.2f} %"
    assert tool.table("seed")[0] == ["seed", "sandwich 1", "sandwich 0.5", "alone 1", "alone 0.5"]
    assert [row[0] for row in tool.table("seed")[1:]] == ["0"]
    picture = json.loads(tool.picture.read_text())
    assert [entry["width"] for entry in picture["widths"]] == [1.0, 0.5]

    # a run that is stopped has the rows of what was done
    kept = [line for line in tool.json.read_text().splitlines(keepends=True) if "alone at 0.5" not in line]
    tool.json.write_text("".join(kept))
    trained, real = [], slimmable.once

    def once(options: Sequence[str], timeout: float) -> dict[str, Any]:
        trained.append(list(options))
        return real(options, timeout)

    monkeypatch.setattr(slimmable, "once", once)
    text = tool.results.read_text()
    assert tool(*options) == 0
    assert trained == [["--seed", "0", "--epochs", "1", "--alone", "0.5"]]
    assert tool.json.read_text().startswith("".join(kept))
    assert tool.results.read_text() == text  # the same seed gives the same network


@pytest.mark.usefixtures("no_training")
def test_the_check_passes_good_rows(tool: Tool) -> None:
    tool.write([0.985, 0.985, 0.98, 0.97], [0.995, 0.99, 0.98, 0.96])
    assert tool("--seeds", "0", "1", "--check") == 0
    assert tool.table("width")[1] == ["1", "1.53", "98.50 ± 0.00 %", "99.50 ± 0.00 %", "-1.00"]
    assert "At most, the sandwich is 1.00 points below; the aim is 0.50 points" in tool.results.read_text()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("sandwich", "alone", "message"),
    [
        ([0.99, 0.99, 0.979, 0.97], [0.99] * 3 + [0.97], "width 0.5: the sandwich reaches 97.90%, not 98.0%"),
        ([0.985] * 4, [0.985, 0.996, 0.985, 0.985], "width 0.75: the sandwich is 1.10 points below, more than 1.00"),
    ],
)
def test_the_check_fails_on_bad_rows(
    tool: Tool, capsys: pytest.CaptureFixture[str], sandwich: list[float], alone: list[float], message: str
) -> None:
    tool.write(sandwich, alone)
    assert tool("--seeds", "0", "1", "--check") == 1
    assert message in capsys.readouterr().out
    assert tool("--seeds", "0", "1") == 0


@pytest.mark.usefixtures("no_training")
def test_networks_that_cost_differently_are_not_compared(tool: Tool) -> None:
    tool.write([0.99] * 4, [0.99] * 4)
    row = tool.rows["alone at 0.5, seed 1"]
    row["widths"][0]["flops"] += 1
    with tool.json.open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(SystemExit, match=r"networks of width 0\.5 differ in FLOPs"):
        tool("--seeds", "0", "1")


def test_a_training_that_fails_leaves_no_table_and_is_tried_again(
    tool: Tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool.write([0.99] * 4, [0.99] * 4, seeds=1, status="failed", reason="out of memory")
    asked = []

    def once(options: Sequence[str], timeout: float) -> dict[str, Any]:
        asked.append(list(options))
        return {"status": "failed", "reason": f"took longer than {timeout:g} s"}

    monkeypatch.setattr(slimmable, "once", once)
    assert tool("--seeds", "0", "--timeout", "7") == 1
    assert len(asked) == 5
    assert "sandwich, seed 0: FAILED: took longer than 7 s" in capsys.readouterr().out
    assert not tool.results.exists()


def test_a_process_that_dies_is_a_failure() -> None:
    row = slimmable.once(["--alone", "0.33", "--epochs", "1"], 100)  # no candidate of the recipe
    assert row["status"] == "failed"
    assert "the process ended with 1" in row["reason"]


def test_both_kinds_see_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[float]] = {}

    class Watch(Callback):
        def __init__(self, name: str) -> None:
            self.sums = seen.setdefault(name, [])

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            images, labels = batch
            self.sums.append(float((images.flatten(1).double() ** 3).sum(1) @ labels.double()))

    real = _slimmable._fit
    for name, train in {"sandwich": _slimmable.sandwich, "alone": lambda c: _slimmable.alone(c, 0.25)}.items():
        watch = Watch(name)
        monkeypatch.setattr(_slimmable, "_fit", lambda net, c, own, watch=watch: real(net, c, [*own, watch]))
        train(_slimmable.recipe(seed=3, epochs=1))
    assert len(seen["alone"]) == 23
    assert seen["sandwich"] == seen["alone"]


def test_the_plain_network_begins_as_torch_would_begin_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def fit(net: Any, *rest: Any) -> Any:
        assert net.training
        assert not any("Dynamic" in type(module).__name__ for module in net.modules())
        conv = net.blocks[2].conv2  # 16 inputs of 3x3 give torch's bound of 1 / sqrt(144)
        assert conv.weight.shape == (16, 16, 3, 3)
        assert 0.95 / 12 < conv.weight.abs().max() <= 1 / 12
        raise Stop

    monkeypatch.setattr(_slimmable, "_fit", fit)
    with pytest.raises(Stop):
        _slimmable.alone(_slimmable.recipe(seed=0, epochs=1), 0.25)


def test_the_documentation_shows_the_figures_of_the_last_run() -> None:
    figures = json.loads((ROOT / "docs/pictures/slimmable.json").read_text())
    widths = [
        Width(entry["width"], entry["flops"], tuple(entry["sandwich"]), tuple(entry["alone"]), ())
        for entry in figures["widths"]
    ]
    assert figures["epochs"] == 40
    assert figures["seeds"] == [0, 1, 2, 3, 4]
    assert list(slimmable.misses(widths)) == []
    for page in ("docs/howto/slimmable.md", "benchmarks/RESULTS.md"):
        assert summary(widths) in (ROOT / page).read_text(encoding="utf-8"), page
