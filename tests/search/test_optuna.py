"""Optuna as a search's engine: limits, seeds, fronts, and studies that several processes share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from lightning_channels import ConfigError
from lightning_channels.search import OptunaSearch, SearchTask, build_search, search
from tests.callbacks.ranks import run_ranks
from tests.search.studied import BUDGET, arguments, score, space_of

SPACE = space_of()


def run(algorithm: Any = "optuna", **arguments: Any) -> Any:
    return search(SPACE, score, algorithm, **{"metric": "score", "budget": 30, **arguments})


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "qmc", "random", {"type": "tpe", "gamma": None}])
def test_no_candidate_breaks_a_limit(sampler: Any) -> None:
    result = run({"type": "optuna", "sampler": sampler}, budget=12)
    assert len(result.candidates) == 12
    for candidate in result.candidates:
        assert candidate.resources["macs"] <= SPACE.limits["macs"]


def test_the_sampler_is_told_what_breaks_a_limit() -> None:
    algorithm = OptunaSearch()
    result = run(algorithm, budget=20)
    trials = algorithm._study.get_trials()
    complete = [trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE]
    pruned = [trial for trial in trials if trial.state == optuna.trial.TrialState.PRUNED]
    assert len(pruned) > 2
    assert all(trial.constraints["macs"] > 0 for trial in pruned)
    assert all(trial.constraints["macs"] <= 0 for trial in complete)
    told = [trial.user_attrs["choices"] for trial in complete]
    asked = [found.choices for found in result.candidates]
    assert [choices for at, choices in enumerate(told) if choices not in told[:at]] == asked
    for trial in complete:
        assert SPACE.choices(list(trial.params.values())) == trial.user_attrs["choices"]
        assert trial.value == trial.user_attrs["metrics"]["score"]
    assert algorithm._study.best_value == result.best.metrics["score"]


def test_it_finds_more_than_chance() -> None:
    best = [run(budget=60, seed=seed).best.metrics["score"] for seed in range(3)]
    drawn = [run("random", budget=60, seed=seed).best.metrics["score"] for seed in range(3)]
    assert sum(best) > sum(drawn)
    lowest = search(SPACE, lambda choices: {"score": -score(choices)["score"]}, "optuna", metric="score", mode="min",
                    budget=60)  # fmt: skip
    assert lowest.best.metrics["score"] == -run(budget=60).best.metrics["score"]


@pytest.mark.parametrize("objectives", [None, ("macs",)])
def test_a_search_is_a_function_of_its_seed(objectives: Any) -> None:
    first, second, other = (run(objectives=objectives, seed=seed).to_dict() for seed in (1, 1, 2))
    assert first == second
    assert first["candidates"] != other["candidates"]


def test_a_front() -> None:
    result = run(objectives=("macs",), budget=60)
    assert result.objectives == ("macs",)
    assert len(result.front) > 3
    found = [(candidate.metrics["score"], -candidate.resources["macs"]) for candidate in result.front]
    assert len({score for score, _ in sorted(found)}) == len(found)
    assert sorted(found) == sorted(found, key=lambda pair: -pair[1])


def test_a_search_that_was_killed_goes_on_from_the_journal(tmp_path: Path) -> None:
    seen: list[Any] = []

    def evaluate(choices: Any, most: int = 100) -> Any:
        if len(seen) == most:
            raise KeyboardInterrupt
        seen.append(dict(choices))
        return score(choices)

    settings: dict[str, Any] = {"metric": "score", "budget": 20, "journal": tmp_path / "search.jsonl"}
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, lambda choices: evaluate(choices, 11), "optuna", **settings)
    result = search(SPACE, evaluate, "optuna", **settings)
    assert len(seen) == 20
    assert result.to_dict() == run(budget=20).to_dict()


def test_two_processes_work_on_one_study(tmp_path: Path) -> None:
    run_ranks("tests.search.studied", tmp_path)
    found = [json.loads((tmp_path / f"study{number}.json").read_text()) for number in (0, 1)]
    seen = [{json.dumps(choices) for choices in one["seen"]} for one in found]
    assert min(map(len, seen)) > 0
    # by chance both may ask for the same at the same time
    assert BUDGET <= len(seen[0] | seen[1]) <= BUDGET + 1
    assert all(len(one["seen"]) == len(own) for one, own in zip(found, seen, strict=True))
    for own, one in zip(seen, found, strict=True):
        known = {json.dumps(candidate["choices"]) for candidate in one["result"]["candidates"]}
        # what it evaluated itself, and what the other one did
        assert own <= known
        assert known - own
        assert "arguments" not in one["result"] or "sqlite" not in json.dumps(one["result"])

    def never(choices: Any) -> Any:
        raise AssertionError(choices)

    # begun anew, all of it is known
    again = search(space_of(), never, **arguments(tmp_path))
    assert len(again.candidates) == BUDGET
    with pytest.raises(
        ConfigError, match="the study 'net' is of another search: its space, metric, mode or objectives"
    ):
        search(space_of({"macs": 0.5}), never, **arguments(tmp_path))


def test_a_study_in_a_log_file(tmp_path: Path) -> None:
    algorithm = {"type": "optuna", "storage": str(tmp_path / "study.log"), "study": "net"}
    first = run(algorithm, budget=10)
    more = run(algorithm, budget=15)
    assert [one.choices for one in more.candidates[:10]] == [one.choices for one in first.candidates]
    assert "study.log" not in json.dumps(more.to_dict())
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(algorithm["storage"]))
    study = optuna.load_study(study_name="net", storage=storage)
    trial = next(trial for trial in study.get_trials() if trial.state == optuna.trial.TrialState.COMPLETE)
    study.add_trial(optuna.trial.create_trial(
        params={**trial.params, "0_(0, 24)_24": 99},
        distributions={name: optuna.distributions.IntDistribution(0, 99) for name in trial.params},
        value=0.0, user_attrs={"metrics": {"score": 0.0}},
    ))  # fmt: skip
    with pytest.raises(ConfigError, match="of the study 'net' isn't of this search space"):
        run(algorithm, budget=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "tpo"}, "unknown Optuna sampler 'tpo'; did you mean 'tpe'"),
        ({"sampler": {"type": "tpe", "startup": 3}}, "Optuna's TPESampler takes no argument 'startup'"),
        ({"storage": "sqlite:///a.db"}, "optuna's storage needs the name of a study"),
        ({"storage": 3, "study": "x"}, "optuna's storage must be a string, got 3"),
        ({"batch": 0}, "optuna's batch must be a whole number of at least 1, got 0"),
        ({"storage": "nothing", "study": "x"}, "Optuna can't open the study 'x'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run({"type": "optuna", **arguments})


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"needs Optuna; pip install 'lightning-channels\[optuna\]'"):
        build_search("optuna")


def test_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    run(budget=5)
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level
    assert SearchTask(SPACE, "score").budget == 100
