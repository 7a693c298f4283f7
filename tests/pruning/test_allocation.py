"""How many channels each unit keeps: against all choices, and by what the ranking promises."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_channels.pruning.allocation import allocate, allocate_alike
from lightning_channels.pruning.nearest import nearest
from lightning_channels.pruning.order import DropOrder
from lightning_channels.pruning.rungs import NEAR, Ladder, Rungs, load_of


def ladder(scores: list[float], allowed: list[int] | None = None, groups: int = 1) -> Ladder:
    rows = len(scores)
    numbers = allowed if allowed is not None else list(range(groups, rows * groups + 1, groups))
    return Ladder(torch.tensor(numbers), torch.tensor(sorted(scores, reverse=True), dtype=torch.float64), groups)


def costing(weights: list[float], limit: float, products: float = 0.0) -> Any:
    """What of a limit numbers take up: their weighted sum, and what neighbours multiply to."""

    def shares(numbers: Tensor) -> Tensor:
        single = numbers.double() @ torch.tensor(weights, dtype=torch.float64)
        return ((single + products * (numbers[:, 1:] * numbers[:, :-1]).sum(1)) / limit)[:, None]

    return shares


def test_the_lowest_of_all_go() -> None:
    ladders = [ladder([9, 7, 5, 1]), ladder([8, 6, 4, 2]), ladder([3, 2.5])]
    for budget in range(3, 11):
        kept = sorted([9, 7, 5, 1, 8, 6, 4, 2, 3, 2.5], reverse=True)
        found = allocate(ladders, costing([1, 1, 1], budget))
        # each unit keeps one, whatever its score: the others by rank
        firsts = [9, 8, 3]
        rest = [score for score in kept if score not in firsts][: budget - 3]
        assert found.tolist() == [
            1 + sum(score in (7, 5, 1) for score in rest),
            1 + sum(score in (6, 4, 2) for score in rest),
            1 + sum(score == 2.5 for score in rest),
        ]


def test_of_equal_scores_all_units_give_alike() -> None:
    assert allocate([ladder([1.0] * 8), ladder([1.0] * 4)], costing([1, 1], 6)).tolist() == [4, 2]


def test_the_same_share_of_all_units() -> None:
    ladders = [ladder([9, 7, 5, 1]), ladder([0.1] * 12)]
    assert allocate_alike(ladders, costing([1, 1], 8)).tolist() == [2, 6]
    # after the first unit's step, the second could go up two steps again, and goes one
    assert allocate_alike(ladders, costing([6, 1], 30)).tolist() == [3, 11]


def test_a_row_of_tied_channels_goes_whole() -> None:
    ladders = [ladder([3.0, 1.0, 2.0], groups=4), ladder([2.5, 1.5])]
    assert allocate(ladders, costing([1, 1], 10)).tolist() == [8, 2]
    assert allocate(ladders, costing([1, 1], 9)).tolist() == [8, 1]


def test_where_one_step_saves_too_much_others_come_back() -> None:
    """The coarse unit's last row is the lowest left, and saves 40 of 100."""
    ladders = [ladder([5.0, 1.0]), ladder([float(score) for score in range(2, 22)])]
    found = allocate(ladders, costing([40, 1], 59))
    assert found.tolist() == [1, 19]


def test_where_nothing_can_come_back_others_go_instead() -> None:
    ladders = [ladder([5.0, 1.0]), ladder([float(score) for score in range(2, 14)], list(range(1, 13)))]
    found = allocate(ladders, costing([40, 1], 87))
    assert found.tolist() == [2, 7]  # rather than [1, 12], at 52 of 87


def test_a_step_on_the_way_does_not_go_below_the_end() -> None:
    ladders = [ladder([5.0, 1.0]), ladder([6.0, 7.0])]
    end = costing([40, 1], 60)
    assert allocate(ladders, costing([40, 1], 70), end, exact=False).tolist() == [2, 2]
    assert allocate(ladders, costing([40, 1], 70), None, exact=False).tolist() == [1, 2]


UNIT = st.integers(1, 3).flatmap(
    lambda groups: st.integers(1, 7).flatmap(
        lambda rows: st.tuples(
            st.just(groups),
            st.lists(st.floats(-2, 2), min_size=rows, max_size=rows),
            st.sets(st.integers(1, rows), min_size=0).map(lambda found: sorted({*found, rows})),
        )
    )
)


@given(
    units=st.lists(UNIT, min_size=1, max_size=4),
    weights=st.lists(st.integers(1, 30), min_size=4, max_size=4),
    products=st.sampled_from([0.0, 1.0, 5.0]),
    part=st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_it_is_the_nearest_choice_of_all(units: list[Any], weights: list[int], products: float, part: float) -> None:
    ladders = [ladder(scores, [groups * n for n in allowed], groups) for groups, scores, allowed in units]
    own = [float(weight) for weight in weights[: len(units)]]
    every = torch.tensor(list(itertools.product(*(lad.numbers.tolist() for lad in ladders))))
    costs = costing(own, 1.0, products)(every)[:, 0]
    limit = float(costs.min() + part * (costs.max() - costs.min()))
    found = allocate(ladders, costing(own, limit, products))
    assert all(int(number) in lad.numbers for number, lad in zip(found, ladders, strict=True))
    load = load_of(found, costing(own, limit, products))
    best = float((costs[costs <= limit] / limit).max())
    assert min(NEAR, best) <= load <= 1
    again = allocate(ladders, costing(own, limit, products))
    assert found.tolist() == again.tolist()


@given(units=st.lists(UNIT, min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_the_more_rows_go_the_fewer_channels_stay(units: list[Any]) -> None:
    ladders = [ladder(scores, [groups * n for n in allowed], groups) for groups, scores, allowed in units]
    order = DropOrder(ladders)
    rows = sum(lad.scores.numel() - int(lad.numbers[0]) // lad.groups for lad in ladders)
    left = [order.after(gone) for gone in range(rows + 1)]
    assert left[0].tolist() == [int(lad.numbers[-1]) for lad in ladders]
    assert left[-1].tolist() == [int(lad.numbers[0]) for lad in ladders]
    assert all(bool((more >= less).all()) for more, less in itertools.pairwise(left))


@pytest.mark.parametrize("seed", range(3))
def test_the_fewest_rows_are_found_among_thousands(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ladders = [ladder(torch.rand(700, generator=generator).tolist()) for _ in range(5)]
    shares = costing([1, 2, 3, 4, 5], 6000, products=0.01)
    order = DropOrder(ladders)
    rows = order.fewest(shares)
    assert load_of(order.after(rows), shares) <= 1 < load_of(order.after(rows - 1), shares)


def test_exchanges_come_near_where_there_are_too_many_choices() -> None:
    """Coarse units of different sizes: no single step reaches 1 %, a pair of them does."""
    sizes = [7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0]
    ladders = [ladder([1.0] * 6) for _ in sizes]
    shares = costing(sizes, 300.0)
    rungs = Rungs(ladders)
    start = torch.tensor([1] * 7)
    assert load_of(rungs.numbers_at(start), shares) < 0.8
    found = nearest(rungs, start, shares)
    assert NEAR <= load_of(rungs.numbers_at(found), shares) <= 1


def test_more_resources_are_met_at_once() -> None:
    ladders = [ladder([4, 3, 2, 1]), ladder([8, 7, 6, 5])]

    def shares(numbers: Tensor) -> Tensor:
        return torch.stack([numbers[:, 0] / 3, numbers[:, 1] / 2], dim=1).double()

    assert allocate(ladders, shares).tolist() == [3, 2]
