"""The journal: a killed search goes on where it stopped, and nothing else passes for one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_channels import ConfigError, SearchResult
from lightning_channels.search import search
from tests.search.killed import run
from tests.search.nets import METRIC, concave, space_of

ROOT = Path(__file__).parents[2]


def started(folder: Path, algorithm: str, kill_at: int) -> int:
    """The exit code of a search in a process of its own."""
    command = [sys.executable, "-m", "tests.search.killed", str(folder), algorithm, str(kill_at)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


@pytest.mark.parametrize("algorithm", ["evolution", "greedy", "random"])
def test_a_search_that_was_killed_ends_as_if_it_was_not(algorithm: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    run(whole, algorithm)
    log = (whole / "log").read_text().splitlines()
    kill_at = random.Random(algorithm).randint(2, len(log))
    assert started(killed, algorithm, kill_at) == -signal.SIGKILL
    assert (killed / "log").read_text().splitlines() == log[: kill_at - 1]
    with (killed / "search.jsonl").open("a") as journal:
        journal.write('{"choices":{"0_(0')  # as if it was killed while it wrote
    run(killed, algorithm)
    assert (killed / "log").read_text().splitlines() == log
    assert (killed / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert (killed / "search.jsonl").read_bytes() == (whole / "search.jsonl").read_bytes()


def counted(calls: list[Any]) -> Callable[[Mapping[str, Any]], dict[str, float]]:
    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        calls.append(choices)
        return concave()(choices)

    return evaluate


def searched(path: Path, calls: list[Any], **changes: Any) -> SearchResult:
    """A search that takes nothing but its journal, where it can."""
    arguments = {"algorithm": "random", "budget": 12, "seed": 1, **changes}
    space = arguments.pop("space", None) or space_of({"flops": 0.5})
    return search(space, counted(calls), journal=path, **arguments)


def test_wherever_a_crash_cut_the_file_it_goes_on(tmp_path: Path) -> None:
    path, calls = tmp_path / "search.jsonl", []
    expected = searched(path, calls)
    whole, choices = path.read_bytes(), list(calls)
    lines = whole.splitlines(keepends=True)
    rng = random.Random(0)
    for cut in [0, 1, len(lines[0]) - 1, len(lines[0]), len(whole) - 1, *rng.sample(range(len(whole)), 12)]:
        path.write_bytes(whole[:cut])
        calls.clear()
        assert searched(path, calls) == expected
        assert path.read_bytes() == whole
        assert calls == choices[max(0, whole[:cut].count(b"\n") - 1) :]


def test_zeros_at_the_end_are_dropped(tmp_path: Path) -> None:
    """What some file systems leave after a power failure."""
    path, calls = tmp_path / "search.jsonl", []
    expected, whole = searched(path, calls), path.read_bytes()
    path.write_bytes(whole + b"\0" * 50)
    calls.clear()
    assert searched(path, calls) == expected
    assert (calls, path.read_bytes()) == ([], whole)


def test_with_a_larger_budget_it_goes_further(tmp_path: Path) -> None:
    path, calls = tmp_path / "search.jsonl", []
    first = searched(path, calls, algorithm={"type": "evolution", "population": 5}, budget=20)
    second = searched(path, calls, algorithm={"type": "evolution", "population": 5}, budget=30)
    assert len(calls) == 30
    assert second.candidates[:20] == first.candidates


def trained(space: Any) -> Any:
    with torch.no_grad():
        next(space.mutator.model.parameters()).add_(0.5)
    return space


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "its seed is 1, and this one's is 2"),
        ({"metric": "other"}, "its metric is 'val_acc', and this one's is 'other'"),
        ({"mode": "min"}, "its mode is 'max', and this one's is 'min'"),
        ({"objectives": ("macs",)}, "its objectives is [], and this one's is ['macs']"),
        ({"algorithm": "evolution"}, "its algorithm is 'random', and this one's is 'evolution'"),
        ({"space": lambda: space_of({"flops": 0.6})}, "its space is '"),
        ({"space": lambda: space_of({"flops": 0.5}, (16, 16, 15))}, "its space is '"),
        ({"space": lambda: trained(space_of({"flops": 0.5}))}, "its weights is '"),
    ],
)
def test_the_journal_of_another_search_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path, calls = tmp_path / "search.jsonl", []
    searched(path, calls)
    whole, evaluated = path.read_bytes(), len(calls)
    with pytest.raises(ConfigError) as caught:
        searched(path, calls, **{name: made() if callable(made) else made for name, made in changes.items()})
    assert f"the journal {path} is of another search: {message}" in str(caught.value)
    assert (path.read_bytes(), len(calls)) == (whole, evaluated)


def entry(**changes: Any) -> bytes:
    choices = {"0_(0, 16)_16": 1, "2_(0, 16)_16": 1, "4_(0, 16)_16": 1}
    return json.dumps({"choices": choices, "metrics": {METRIC: 0.5}, **changes}).encode()


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"choices", "line 2 is damaged"),
    "binary": (b"\xff\xfe", "line 2 is damaged"),
    "nested": (b"[" * 5000 + b"]" * 5000, "line 2 is damaged"),
    "a key twice": (b'{"choices": {}, "choices": {}, "metrics": {}}', "the key 'choices' is there twice"),
    "a list": (b"[1]", "line 2 must be a dict, got [1]"),
    "a key more": (entry(_target_="os.system"), "line 2 must have the keys choices and metrics"),
    "an unknown unit": (entry(choices={"../stem": 1}), "line 2: unknown unit '../stem'"),
    "out of range": (entry(choices={"0_(0, 16)_16": 99}), "line 2: the choice 99 of unit"),
    "text for a width": (entry(choices={"0_(0, 16)_16": "1"}), "choices must be finite numbers, got '1'"),
    "not all units": (entry(choices={"0_(0, 16)_16": 1}), "the choices name no width for unit"),
    "NaN": (entry(metrics={METRIC: float("nan")}), "line 2 is damaged: NaN is no number of JSON's"),
    "text for a metric": (entry(metrics={METRIC: "__import__('os')"}), "metrics must be finite numbers"),
    "true": (entry(metrics={METRIC: True}), "metrics must be finite numbers, got True"),
    "no metric": (entry(metrics={"val_loss": 0.5}), "line 2 has no metric 'val_acc'"),
    "huge": (entry(metrics={METRIC: 10**400}), "line 2"),
    "a long line": (b'{"' + b"a" * (5 << 20), "a line that is longer than any of a journal"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_entry_is_refused(name: str, tmp_path: Path) -> None:
    line, message = HOSTILE[name]
    path, calls = tmp_path / "search.jsonl", []
    searched(path, calls, budget=1)
    first, *rest = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([first, line, b"\n", *rest])
    path.write_bytes(damaged)
    with pytest.raises(ConfigError) as caught:
        searched(path, calls)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert (path.read_bytes(), len(calls)) == (damaged, 1)


@pytest.mark.parametrize("content", [b"my thesis", b"my thesis\n", b'{"version": 1}\n', b"[]\n", b"\0\0\0\0"])
def test_another_file_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="can't be used as a journal"):
        searched(path, [])
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "a-file" / "search.jsonl"):
        (tmp_path / "a-file").touch()
        with pytest.raises(ConfigError, match="cannot open the journal"):
            searched(path, [])


def test_one_search_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        with pytest.raises(ConfigError, match="is being written by another search; take another file"):
            searched(path, [])
        return concave()(choices)

    search(space_of({"flops": 0.5}), evaluate, "random", budget=1, seed=1, journal=path)
    assert len(path.read_text().splitlines()) == 2


def test_an_evaluation_that_raises_loses_nothing(tmp_path: Path) -> None:
    path, calls = tmp_path / "search.jsonl", []
    expected = searched(tmp_path / "other.jsonl", [])

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        if len(calls) == 5:
            raise RuntimeError("out of memory")
        return counted(calls)(choices)

    with pytest.raises(RuntimeError, match="out of memory"):
        search(space_of({"flops": 0.5}), evaluate, "random", budget=12, seed=1, journal=path)
    assert len(path.read_text().splitlines()) == 6
    assert searched(path, calls) == expected
    assert len(calls) == 12
