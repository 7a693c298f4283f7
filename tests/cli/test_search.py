"""``lightning-channels search``: results, limits, resuming, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.mine import Mine
from tests.resources.machine import simulate

UNIT = "encoder.0_(0, 12)_12"
SEARCH = ["--metric", "val_acc", "--budget", 6, "--seed", 3]


def count_validations(monkeypatch: pytest.MonkeyPatch, interrupted_at: int = 0) -> list[int]:
    """Ctrl-C comes in one of the validations."""
    started: list[int] = []

    def begin(self: Mine) -> None:
        started.append(len(started))
        if len(started) == interrupted_at:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Mine, "on_validation_start", begin, raising=False)
    return started


def test_a_search_under_limits(cli, own: Path, tmp_path: Path) -> None:
    given = ["search", own, *SEARCH, "--limit", "macs=50%", "--limit", "params=0.8", "--divisor", 2]
    code, out, err = cli(*given, "-o", "found.json", "--progress")
    assert code == 0, err
    assert "searching: " in err
    assert "candidates written to found.json" in err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["candidates"]
    assert all(candidate["resources"]["macs"] <= 54 for candidate in found["candidates"])
    assert all(round(12 * candidate["choices"][UNIT]) % 2 == 0 for candidate in found["candidates"])
    assert out.startswith(f"{len(found['candidates'])} choices by evolution, seed 3, macs up to 54, params up to 118")
    assert out.count("(best)") == 1
    assert cli(*given, "--json")[1] == json.dumps(found, indent=4, separators=(",", ":")) + "\n"


def test_objectives_and_algorithms(cli, own: Path) -> None:
    fronts = {}
    for algorithm in ("random", "evolution"):
        given = [own, *SEARCH, "--objective", "macs", "--algorithm", algorithm, "--json"]
        code, out, err = cli("search", *given, "--mode", "max")
        assert code == 0, err
        fronts[algorithm] = json.loads(out)
        assert (fronts[algorithm]["algorithm"], fronts[algorithm]["objectives"]) == (algorithm, ["macs"])
    code, out, err = cli("search", own, *SEARCH, "search=evolution", "search.population=3", "--json")
    assert (code, json.loads(out)["arguments"]["population"]) == (0, 3), err


def test_an_interrupted_search_goes_on(cli, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli("search", own, *SEARCH, "--json")
    started = count_validations(monkeypatch, interrupted_at=4)
    code, out, err = cli("search", own, *SEARCH, "--journal", "search.jsonl", "--json")
    assert (code, out, err.count("\n")) == (130, "", 2), err
    assert "interrupted; what was evaluated is in search.jsonl, and the same command goes on from there" in err
    assert len((tmp_path / "search.jsonl").read_text().splitlines()) == 1 + 3
    assert cli("search", own, *SEARCH, "--resume", "search.jsonl", "--json") == whole
    assert len(started) == 4 + 3  # the three that were done aren't done again
    code, _, err = cli("search", own, *SEARCH, "--seed", 4, "--journal", "search.jsonl")
    assert (code, "search.jsonl" in err) == (2, True)
    count_validations(monkeypatch, interrupted_at=1)
    assert "with --journal FILE a search can be continued" in cli("search", own, *SEARCH)[2]


def test_latency_is_measured_once_and_kept(cli, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = simulate(monkeypatch.setattr, overhead=0)
    given = ["search", own, *SEARCH, "--limit", "latency_ms=60%", "--latency", "latency.json", "--journal", "s.jsonl"]
    code, out, err = cli(*given, "--latency-batch", 4, "-o", "found.json")
    assert code == 0, err
    assert "latency measured, and written to latency.json: " in err
    assert "at full width on cpu (1 thread), batch of 4; estimates are off by 0.0% on average" in err
    assert ", latency_ms up to " in out.splitlines()[0]
    assert out.splitlines()[2].split()[:4] == ["candidate", "MACs", "parameters", "latency"]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["candidates"]
    assert all(one["resources"]["latency_ms"] <= found["limits"]["latency_ms"] for one in found["candidates"])
    measured = len(models)
    code, out, err = cli(*given, "-o", "again.json")
    assert (code, len(models)) == (0, measured), err
    assert "latency read from latency.json: " in err
    assert (tmp_path / "again.json").read_text() == (tmp_path / "found.json").read_text()


def test_latency_as_an_objective_and_beside_other_limits(
    cli, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = simulate(monkeypatch.setattr)
    code, out, err = cli("search", own, *SEARCH, "--objective", "latency_ms", "--json", "--progress")
    assert code == 0, err
    assert "measuring latency: 100%" in err
    assert json.loads(out)["objectives"] == ["latency_ms"]
    assert list(tmp_path.glob("*.json")) == []
    measured = len(models)
    code, out, err = cli("search", own, *SEARCH, "--limit", "macs=50%", "--latency", "latency.yaml", "--json")
    assert (code, len(models)) == (0, 2 * measured), err
    assert all(one["resources"]["latency_ms"] > 0 for one in json.loads(out)["candidates"])


LATENCY = ["--limit", "latency_ms=3ms", "--metric", "val_acc"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*LATENCY, "--latency", "known.json", "--latency-batch", "3"], 2, "known.json was measured with"),
        ([*LATENCY[2:], "--limit", "latency_ms=1%", "--latency", "known.json"], 3, "can't be reached"),
        ([*LATENCY[2:], "--limit", "latency_ms=0.5"], 2, "write '50%' or '0.5ms'"),
        ([*LATENCY, "--latency", "latency.txt"], 2, "--latency is a .json, .yaml or .yml file, got latency.txt"),
        ([*LATENCY, "--latency", "mine.yaml"], 2, "mine.yaml: a measured latency takes no key '"),
        ([*LATENCY, "--latency-batch", "0"], 2, "--latency-batch must be a number of examples, at least 1, got 0"),
        ([*LATENCY, "--latency-device", "tpu"], 2, "device must be 'cpu' or 'cuda', got 'tpu'"),
        ([*LATENCY, "--journal", "s.jsonl"], 2, "add --latency FILE, which keeps it"),
        ([*LATENCY[2:], "--latency-batch", "3"], 2, "--latency-batch 3 is for a search by latency"),
    ],
)
def test_what_latency_is_refused(
    cli, own: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    simulate(monkeypatch.setattr)
    if "known.json" in arguments:
        assert cli("search", own, *SEARCH, "--latency", "known.json")[0] == 0
    found, out, err = cli("search", own, *arguments)
    *told, line = err.splitlines()
    assert (found, out) == (code, "")
    assert message in line
    assert all(other.startswith("latency read from known.json") for other in told)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--metric", "val_acc", "--limit", "macs=0.01"], 3, "can't be reached: with every unit at its narrowest"),
        (["--metric", "val_acc", "--limit", "mac=0.5"], 2, "did you mean 'macs'?"),
        (
            ["--metric", "val_acc", "--limit", "0.5"],
            2,
            "a limit is written RESOURCE=VALUE, such as flops=0.5, got",
        ),
        (["--metric", "val_acc", "--limit", "macs=1", "--limit", "macs=2"], 2, "there are two limits for macs"),
        (["--metric", "val_acc", "--limit", "macs=[1"], 2, "the target's macs is '[1'"),
        (["--metric", "val_acc", "--objective", "mac"], 2, "did you mean 'macs'?"),
        (["--metric", "val_acc", "--divisor", "0"], 2, "divisor must be"),
        (["--metric", "val_acc", "--algorithm", "evolutoin"], 2, "did you mean 'evolution'?"),
        (["--metric", "val_acc", "search.populaton=3"], 2, "did you mean 'population'?"),
        (["--metric", "val_acc", "--budget", "0"], 2, "budget must be a whole number of at least 1"),
        (["--metric", "val_acc", "-o", "found.yaml"], 2, "found.yaml must end in .json"),
        (["--metric", "val_accuracy"], 2, "the validation logs no metric 'val_accuracy'; did you mean 'val_acc'?"),
        (["--metric", "val_loss"], 2, "say whether more of val_loss is better: --mode max or --mode min"),
        ([], 2, "the following arguments are required: --metric"),
    ],
)
def test_one_line_and_its_exit_code(cli, own: Path, arguments: list[str], code: int, message: str) -> None:
    found, out, err = cli("search", own, *arguments)
    assert (found, out, err.count("\n")) == (code, "", 1), err
    assert message in err


def test_two_processes_find_the_same(cli, trained: Path, tmp_path: Path) -> None:
    """With a latency as well, which the first process alone reads."""
    given = ["search", trained, "--metric", "val/accuracy", "--limit", "flops=0.5", "--budget", 6, "--batches", 1]
    given += ["--recalibrate", 1, "trainer.accelerator=cpu", "--latency", tmp_path / "latency.json"]
    code, _, err = cli(*given, "-o", tmp_path / "one.json")
    assert code == 0, err
    launch = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command: list[Any] = [*launch, "-m", "lightning_channels", *given, "-o", "two.json", "--journal", "two.jsonl"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.json").read_text() == (tmp_path / "one.json").read_text()
    assert done.stdout.count("choices by evolution") == 1
    assert done.stderr.count("latency read from") == 1
    assert '"latency_ms":' in (tmp_path / "two.json").read_text()
    assert len((tmp_path / "two.jsonl").read_text().splitlines()) == 1 + 6
