"""What a search asks of the function that evaluates, and what it leaves behind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_channels import ConfigError, search_subnets
from lightning_channels.search import SerialExecutor, search
from tests.search.nets import METRIC, concave, prepared, space_of

A, B, C = "0_(0, 16)_16", "2_(0, 16)_16", "4_(0, 16)_16"


def test_it_has_a_name_of_its_own_at_the_top() -> None:
    assert search_subnets is search


def test_a_model_is_searched_and_stands_as_before() -> None:
    """The metric is the model's own output, so that what is evaluated is what was set."""
    space = space_of({"flops": 0.5})
    mutator = space.mutator
    mutator.set_choices({A: 5, B: [1, 3, 8]})
    before = mutator.structure()
    inputs = torch.ones(2, 4)

    def evaluate(choices: Mapping[str, Any]) -> dict[str, Any]:
        mutator.set_choices(choices)
        return {"val_loss": mutator.model(inputs).square().mean(), "width": np.float32(sum(choices.values()))}

    result = search(space, evaluate, metric="val_loss", mode="min", budget=25)
    assert mutator.structure() == before
    mutator.set_choices(result.best.choices)
    assert mutator.model(inputs).square().mean().item() == result.best.metrics["val_loss"]
    assert result.best.metrics["width"] == sum(result.best.choices.values())
    assert result.best.metrics["val_loss"] == min(own.metrics["val_loss"] for own in result.candidates)


def test_a_model_stands_as_before_after_an_error() -> None:
    space = space_of()
    space.mutator.set_choices({A: 5})

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        space.mutator.set_choices(choices)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(space, evaluate)
    assert space.mutator.current_choices == {A: 5, B: 16, C: 16}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "must return a dict, metric → number, got float"),
        ({"val_ac": 0.5}, "returned no metric 'val_acc'; did you mean 'val_ac'? It returned val_ac"),
        ({}, "returned no metric 'val_acc'. It returned no metric at all"),
        ({METRIC: float("nan")}, "returned the metric 'val_acc' as nan; a search compares finite numbers"),
        ({METRIC: torch.tensor(float("inf"))}, "returned the metric 'val_acc' as inf"),
        ({METRIC: "0.5"}, "returned the metric 'val_acc' as '0.5'; it must be one number"),
        ({METRIC: torch.ones(2)}, "it must be one number"),
        ({METRIC: 1.0, "passed": True}, "returned the metric 'passed' as True; it must be one number"),
    ],
)
def test_what_is_no_metric(returned: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    with pytest.raises(ConfigError) as caught:
        search(space_of(), lambda choices: returned, budget=3, journal=path)
    assert message in str(caught.value)
    assert f"evaluate, at the choice {{'{A}': 16" in str(caught.value)
    assert len(path.read_text().splitlines()) == 1


def test_other_metrics_may_fail() -> None:
    result = search(space_of(), lambda choices: {**concave()(choices), "f1": float("nan")}, budget=2)
    assert [set(own.metrics) for own in result.candidates] == [{METRIC}, {METRIC}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": ""}, "metric must be the name of a metric, got ''"),
        ({"mode": "maximum"}, "mode must be 'max' or 'min', got 'maximum'; did you mean 'max'?"),
        (
            {"objectives": ("mac",)},
            "objectives name an unknown resource 'mac'; did you mean 'macs'? Known: macs, flops",
        ),
        ({"objectives": (1,)}, "objectives must be names of resources"),
        ({"budget": 0}, "budget must be a whole number of at least 1, got 0"),
        ({"budget": 1.5}, "budget must be a whole number of at least 1, got 1.5"),
        ({"seed": "0"}, "seed must be a whole number, got '0'"),
        ({"evaluate": {}}, "evaluate must be a function, choices → metrics, got dict"),
        ({"space": prepared}, "space must be a SearchSpace, got function"),
        ({"on_progress": 3}, "progress must be true for a bar, or a function"),
    ],
)
def test_what_is_refused_before_anything_runs(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = {"space": arguments.pop("space", None) or space_of(), "evaluate": pytest.fail, **arguments}
    with pytest.raises(ConfigError) as caught:
        search(**given, journal=tmp_path / "search.jsonl")
    assert message in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_progress_is_told() -> None:
    told: list[tuple[int, int | None]] = []
    search(space_of(), concave(), "random", budget=4, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_bar(capfd: pytest.CaptureFixture[str]) -> None:
    search(space_of(), concave(), "random", budget=3, on_progress=True)
    assert "searching: 100%" in capfd.readouterr().err


# --- executors --------------------------------------------------------------------------------------------------------


class Pairs(SerialExecutor):
    """Takes two choices at a time."""

    at_once = 2

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.taken: list[tuple[int, int]] = []

    def map(self, evaluate: Any, choices: list[Any]) -> list[Any]:
        self.taken.append((len(choices), len(self.journal.read_text().splitlines()) - 1))
        return super().map(evaluate, choices)


def test_an_executor_gets_so_many_and_the_journal_each_part(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    pairs = Pairs(path)
    result = search(space_of(), concave(), "random", budget=5, journal=path, executor=pairs)
    assert pairs.taken == [(2, 0), (2, 2), (1, 4)]
    assert result == search(space_of(), concave(), "random", budget=5)


def test_an_executor_without_a_word_gets_all_that_were_asked_for() -> None:
    class All:
        def map(self, evaluate: Any, choices: list[Any]) -> list[Any]:
            taken.append(len(choices))
            return [evaluate(own) for own in choices]

    taken: list[int] = []
    search(space_of(), concave(), {"type": "evolution", "population": 4}, budget=10, executor=All())
    assert taken == [4, 4, 2]


def test_a_process_that_does_not_lead_gets_what_is_known_and_writes_nothing(tmp_path: Path) -> None:
    path, shared = tmp_path / "search.jsonl", []

    class Leader(SerialExecutor):
        def share(self, value: Any) -> Any:
            shared.append(copy.deepcopy(value))
            return value

    class Follower(SerialExecutor):
        leads = False

        def share(self, value: Any) -> Any:
            assert value == ({}, None)
            return shared[-1]

    space = space_of()
    search(space, concave(), "random", budget=3, journal=path)
    written = path.read_bytes()
    first = search(space, pytest.fail, "random", budget=3, journal=path, executor=Leader())
    second = search(space, pytest.fail, "random", budget=3, journal=path, executor=Follower())
    assert first == second
    assert path.read_bytes() == written


def test_an_executor_that_loses_a_choice_is_told() -> None:
    class Lost:
        def map(self, evaluate: Any, choices: list[Any]) -> list[Any]:
            return [evaluate(own) for own in choices[1:]]

    with pytest.raises(ConfigError, match="the executor returned metrics of 2 choices, and was given 3"):
        search(space_of(), concave(), "random", budget=3, executor=Lost())
