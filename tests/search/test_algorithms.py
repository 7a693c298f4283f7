"""What the algorithms find where the optimum is known, and what they promise."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from lightning_channels import Candidate, ConfigError, SearchResult, SearchTask, build_search
from lightning_channels.registry import SEARCHES
from lightning_channels.search import search
from lightning_channels.search.fronts import on_front
from tests.search.nets import METRIC, concave, every, optimum, space_of

ALGORITHMS = ["evolution", "greedy", "random"]


def best_of(result: SearchResult) -> float:
    return result.best.metrics[METRIC]


def test_in_a_small_space_evolution_and_greedy_come_to_the_optimum() -> None:
    """Of 2146 choices, of which 150 are evaluated; random ones come to the best hundredth at most."""
    space = space_of({"flops": 0.3, "params": 0.4})
    best = optimum(space, concave())
    results = [search(space, concave(), "evolution", budget=150, seed=seed) for seed in range(2)]
    drawn = [search(space, concave(), "random", budget=150, seed=seed) for seed in range(2)]
    assert [best_of(own) for own in results] == [pytest.approx(best), pytest.approx(best)]
    assert max(map(best_of, drawn)) < best - 0.1
    assert best_of(search(space, concave(), "greedy", budget=150)) == pytest.approx(best)


def test_in_a_large_space_evolution_comes_nearer_than_random_and_greedy_nearer_than_both() -> None:
    """Of 16⁸ choices, under a limit that counts every channel alike: what is dropped one by one is the optimum then."""
    worth = (1.0, 2.0, 0.5, 1.5, 0.7, 3.0, 1.2, 0.9)
    space, evaluate = space_of({"activations": 0.5}, (16,) * 8), concave(worth)
    best = evaluate(dropped_one_by_one(space, worth))[METRIC]
    for seed in range(3):
        evolved, drawn = (
            best_of(search(space, evaluate, name, budget=150, seed=seed)) for name in ("evolution", "random")
        )
        assert drawn < best - 0.4  # of 16.9 between the narrowest net and the best
        assert best - 0.3 < evolved < best
    greedy = search(space, evaluate, {"type": "greedy", "saving": 0.0, "steps": None}, budget=700)
    assert best_of(greedy) == pytest.approx(best, abs=1e-12)
    assert best - 0.15 < best_of(search(space, evaluate, "greedy", budget=100))


def dropped_one_by_one(space: Any, worth: Sequence[float]) -> dict[str, int]:
    """The channel that is worth least goes, until the limit is met; exact where metric and cost are sums over units."""
    widths = dict.fromkeys(space.candidates, 16)
    by_unit = dict(zip(widths, worth, strict=True))
    while not space.allows(widths):
        least = min(
            (n for n in widths if widths[n] > 1), key=lambda n: by_unit[n] * math.log(widths[n] / (widths[n] - 1))
        )
        widths[least] -= 1
    return widths


def test_less_can_be_better() -> None:
    space = space_of({"flops": 0.5})

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        return {"val_loss": -concave()(choices)[METRIC], "val_acc": 0.0}

    result = search(space, evaluate, metric="val_loss", mode="min", budget=150)
    same = search(space, concave(), budget=150)
    assert [candidate.choices for candidate in result.candidates] == [own.choices for own in same.candidates]
    assert result.best.choices == same.best.choices
    assert result.best.metrics["val_loss"] == -same.best.metrics[METRIC]


def test_the_front_of_a_small_space_is_all_of_it() -> None:
    """All 51 places, with less than half of the choices evaluated."""
    space = space_of({"flops": 0.8}, (10, 10, 10))
    points = every(space)
    costs = torch.tensor([costs_of(space, point) for point in points], dtype=torch.float64)
    true = {tuple(row) for row in costs[on_front(costs)].tolist()}
    result = search(space, concave(), {"type": "evolution", "population": 40}, objectives=("macs",), budget=450)
    found = {tuple(costs_of(space, candidate.choices)) for candidate in result.front}
    assert (len(points), len(true)) == (980, 51)
    assert found == true
    drawn = search(space, concave(), "random", objectives=("macs",), budget=450)
    assert {tuple(costs_of(space, candidate.choices)) for candidate in drawn.front} != true
    assert result.best in result.front


def costs_of(space: Any, choices: Mapping[str, Any]) -> list[float]:
    return [-concave()(choices)[METRIC], float(space.resources.count(choices)["macs"])]


# --- promises ---------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the budget ends before the greedy search")
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(2, 20), min_size=1, max_size=4),
    st.sampled_from([0.3, 0.5, 0.9]),
    st.sampled_from([0.4, 0.6, 1.0]),
    st.sampled_from([None, ("params",), ("macs", "activations")]),
    st.sampled_from(ALGORITHMS),
    st.integers(0, 3),
)
def test_nothing_over_a_limit_is_evaluated_or_found(
    widths: list[int], flops: float, params: float, objectives: Any, algorithm: str, seed: int
) -> None:
    try:
        space = space_of({"flops": flops, "params": params}, widths)
        result = search(space, concave([1.0] * len(widths)), algorithm, objectives=objectives, budget=40, seed=seed)
    except ConfigError:
        reject()  # such a net can't come below such limits, or not so soon
    seen = [space.point(candidate.choices) for candidate in result.candidates]
    assert len(seen) == len(set(seen)) <= 40
    shown = [result.best, *result.front] if algorithm == "greedy" else result.candidates
    for candidate in shown:
        assert all(candidate.resources[name] <= amount for name, amount in space.limits.items())
        assert candidate.resources == {n: float(v) for n, v in space.resources.count(candidate.choices).items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_is_a_function_of_its_seed(algorithm: str) -> None:
    results = [search(space_of({"flops": 0.5}), concave(), algorithm, budget=60, seed=seed) for seed in (3, 3, 4)]
    assert results[0] == results[1]
    assert (results[0].candidates == results[2].candidates) == (algorithm == "greedy")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_algorithm_can_be_used_again(algorithm: str) -> None:
    built = build_search(algorithm)
    first, second = (search(space_of({"flops": 0.5}), concave(), built, budget=60) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("algorithm", ["evolution", "random"])
def test_a_space_ends(algorithm: str) -> None:
    space = space_of({"flops": 0.7}, (4, 3, 2))
    result = search(space, concave(), algorithm, budget=1000)
    assert sorted(space.point(own.choices) for own in result.candidates) == sorted(map(space.point, every(space)))
    assert len(result.candidates) < space.size == 24


def test_a_large_space_with_a_single_choice_ends() -> None:
    narrowest = space_of(widths=(24, 24, 24)).measure((0, 0, 0))
    space = space_of({"params": str(narrowest["params"])}, (24, 24, 24))
    for algorithm in ("evolution", "random"):
        assert len(search(space, concave(), algorithm, budget=50).candidates) == 1


# --- greedy -----------------------------------------------------------------------------------------------------------


def test_greedy_by_hand() -> None:
    """Steps of half a unit; the one that costs least of the metric is kept, until 110 parameters are left."""
    space = space_of({"params": "110"}, (8, 8, 8), divisor=4)
    result = search(space, concave(), {"type": "greedy", "saving": 0.0}, budget=20)
    path = [tuple(own.choices.values()) for own in result.path]
    # dropping half of a unit costs log 2 times 1, 2 and 0.5: the third goes first, and then the first
    assert path == [(8, 8, 8), (8, 8, 4), (4, 8, 4)]
    assert [own.generation for own in result.candidates] == [0, 1, 1, 1, 2, 2]
    assert tuple(result.best.choices.values()) == (4, 8, 4)
    assert [own.resources["params"] for own in result.front] == [106.0]


def test_greedy_has_a_path_of_ever_narrower_nets() -> None:
    result = search(space_of({"flops": 0.2}), concave(), "greedy", budget=150)
    assert result.path[0].resources == {name: float(n) for name, n in space_of().resources.count().items()}
    for wide, narrow in itertools.pairwise(result.path):
        assert wide.resources["flops"] > narrow.resources["flops"]
        assert all(a >= b for a, b in zip(wide.choices.values(), narrow.choices.values(), strict=True))
    assert result.path[-1] == result.best


def test_greedy_without_limits_ends_at_the_narrowest() -> None:
    result = search(space_of(widths=(3, 4)), concave([1, 1]), "greedy", budget=50)
    assert list(result.path[-1].choices.values()) == [1, 1]
    assert list(result.best.choices.values()) == [3, 4]


def test_greedy_takes_larger_steps_where_the_budget_is_small() -> None:
    space = space_of({"flops": 0.3})
    found = [search(space, concave(), "greedy", budget=budget) for budget in (8, 20, 60)]
    assert all(len(own.candidates) <= budget for own, budget in zip(found, (8, 20, 60), strict=True))
    assert len(found[0].path) < len(found[1].path) < len(found[2].path)
    assert all(own.path[-1] == own.best for own in found)


def test_greedy_says_before_it_begins_that_a_budget_is_too_small() -> None:
    space, calls = space_of({"activations": 0.2}, (16,) * 8), []

    def evaluate(choices: Mapping[str, Any]) -> dict[str, float]:
        calls.append(choices)
        return concave([1.0] * 8)(choices)

    with pytest.raises(ConfigError, match="a budget of 3 is too small for the greedy search") as caught:
        search(space, evaluate, "greedy", budget=3)
    with pytest.raises(ConfigError, match=r"with a saving of 0 it takes up to \d+ evaluations"):
        search(space, evaluate, {"type": "greedy", "saving": 0.0}, budget=50)
    assert not calls
    needed = int(str(caught.value).split("budget=")[1].split()[0])
    assert 3 < needed == len(search(space, evaluate, "greedy", budget=needed).candidates)


def test_greedy_that_is_cut_short_ends_within_the_limits() -> None:
    space = space_of({"flops": 0.3})
    task = SearchTask(space, METRIC, budget=150)
    greedy = build_search({"type": "greedy", "saving": 0.0})
    greedy.start(task)
    told = [Candidate(own, concave()(own), {}, 0) for own in greedy.ask(150)]
    greedy.tell(told)
    with pytest.warns(UserWarning, match="the budget ends before the greedy search is at the limits"):
        last = greedy.ask(2)
    assert len(last) == 1
    assert space.allows(last[0])
    greedy.tell([Candidate(last[0], concave()(last[0]), {}, 1)])
    assert greedy.ask(100) == []


# --- from what users write --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            "evolutoin",
            "unknown search algorithm 'evolutoin'; did you mean 'evolution'? Known: evolution, greedy, optuna, random",
        ),
        ({"type": "evolution", "populaton": 3}, "takes no argument 'populaton'; did you mean 'population'"),
        ({"type": "evolution", "population": 1}, "evolution's population must be a whole number of at least 2, got 1"),
        ({"type": "evolution", "parents": 0}, "evolution's parents must be a part of the population, in (0, 1], got 0"),
        ({"type": "evolution", "mutation": 1.5}, "evolution's mutation must be in [0, 1], got 1.5"),
        ({"type": "evolution", "_task": 1}, "takes no argument '_task'"),
        ({"type": "greedy", "steps": 0}, "greedy's steps must be a whole number of at least 1, or None, got 0"),
        ({"type": "greedy", "saving": 2}, "greedy's saving must be a part of the way, in [0, 1], or None, got 2"),
        ({"population": 3}, "must be a dict with a 'type'"),
        (3, "must be a name, a dict with 'type', or an object with the methods start, ask and tell, got int"),
    ],
)
def test_what_is_no_algorithm(algorithm: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_search(algorithm)
    assert message in str(caught.value)


def test_an_algorithm_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SEARCHES, "_classes", dict(SEARCHES._classes))

    @SEARCHES.register("uniform_widths")
    class UniformWidths:
        def __init__(self, shares: int = 3) -> None:
            self.shares = shares

        def start(self, task: SearchTask) -> None:
            space, told = task.space, self.shares - 1
            self.told: list[float] = []
            self.left = [space.choices([last * at // told for last in space.last]) for at in range(self.shares)]

        def ask(self, n: int) -> list[dict[str, Any]]:
            return self.left if not self.told else []

        def tell(self, candidates: list[Candidate]) -> None:
            self.told += [own.metrics[METRIC] for own in candidates]

    space = space_of({"flops": 0.9})
    result = search(space, concave(), {"type": "uniform_widths", "shares": 4}, budget=10)
    assert result.algorithm == "uniform_widths"
    assert [list(own.choices.values()) for own in result.candidates] == [[n] * 3 for n in (1, 6, 11, 16)]
    assert list(result.best.choices.values()) == [11] * 3  # the widest is over the limit
    assert len(search(space, concave(), UniformWidths(), budget=2).candidates) == 2
    with pytest.raises(ConfigError, match="none of the 1 choices that Widest asked for is within the limits"):
        search(space, concave(), Widest(), budget=2)


class Widest:
    """Asks for the same again and again."""

    def start(self, task: SearchTask) -> None:
        self.widest = task.space.choices(task.space.last)

    def ask(self, n: int) -> list[dict[str, Any]]:
        return [self.widest]

    def tell(self, candidates: list[Candidate]) -> None:
        assert [own.choices for own in candidates] == [self.widest]


def test_an_algorithm_that_asks_for_nothing_new_ends() -> None:
    result: SearchResult = search(space_of(), concave(), Widest(), budget=2)
    assert len(result.candidates) == 1
