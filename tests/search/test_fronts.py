"""Non-dominated sorting and crowding, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lightning_channels.search import fronts as module
from lightning_channels.search.fronts import crowding, fronts, on_front


def beats(first: list[float], second: list[float]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def by_definition(rows: list[list[float]]) -> list[bool]:
    return [not any(beats(other, row) for other in rows) for row in rows]


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 1000])
def test_fronts_are_peeled_off_one_by_one(objectives: int, levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 16)
    costs = torch.randint(0, levels, (50, objectives), generator=torch.Generator().manual_seed(levels)).double()
    assert on_front(costs).tolist() == by_definition(costs.tolist())
    found, left = fronts(costs), torch.arange(50)
    for number in range(int(found.max()) + 1):
        first = torch.tensor(by_definition(costs[left].tolist()))
        assert left[first].tolist() == (found == number).nonzero().flatten().tolist()
        left = left[~first]
    assert not left.numel()


def test_crowding_by_hand() -> None:
    costs = torch.tensor([[0.0, 10.0], [1.0, 6.0], [4.0, 2.0], [5.0, 0.0]])
    expected: Tensor = torch.tensor([torch.inf, 4 / 5 + 8 / 10, 4 / 5 + 6 / 10, torch.inf], dtype=torch.float64)
    torch.testing.assert_close(crowding(costs), expected)
    assert crowding(torch.ones(3, 2)).tolist()[1] == 0
