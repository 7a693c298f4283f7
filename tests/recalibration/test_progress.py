"""How far a recalibration is: told to a function, or shown as a bar."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_channels import ConfigError, recalibrate_batch_norm, recalibrated


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def batches(count: int = 3) -> list[Tensor]:
    return list(torch.randn(count, 6, 3))


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randn(8, 3))


@pytest.mark.parametrize(
    ("given", "most", "expected"),
    [
        (batches(3), None, [(1, 3), (2, 3), (3, 3)]),
        (batches(3), 2, [(1, 2), (2, 2)]),
        (batches(3), 7, [(1, 3), (2, 3), (3, 3)]),
        (DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=4), None, [(1, 2), (2, 2)]),
        (DataLoader(Stream(), batch_size=4), None, [(1, None), (2, None)]),
        (itertools.repeat(torch.randn(4, 3)), 2, [(1, 2), (2, 2)]),
    ],
    ids=["list", "fewer", "more", "loader", "stream", "endless"],
)
def test_a_function_is_told_after_each_batch(given: Any, most: int | None, expected: list[Any]) -> None:
    told: list[tuple[int, int | None]] = []
    recalibrate_batch_norm(net(), given, num_batches=most, progress=lambda done, total: told.append((done, total)))
    assert told == expected


def test_a_block_tells_as_well() -> None:
    told = []
    with recalibrated(net(), batches(), progress=lambda done, total: told.append(done)):
        assert told == [1, 2, 3]
    assert told == [1, 2, 3]


def test_a_bar_is_shown_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    recalibrate_batch_norm(net(), batches(), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.split("\r")[-1]
    assert "recalibrating: 100%" in last
    assert "3/3" in last
    for off in (None, False):
        recalibrate_batch_norm(net(), batches(), progress=off)
    assert capsys.readouterr().err == ""


def test_an_error_in_the_function_leaves_the_statistics() -> None:
    def interrupt(done: int, total: int | None) -> None:
        if done == 2:
            raise KeyboardInterrupt

    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        recalibrate_batch_norm(model, batches(), progress=interrupt)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("progress", ["bar", 1, 0.5])
def test_what_is_neither_is_refused(progress: Any) -> None:
    with pytest.raises(ConfigError, match=r"progress must be true for a bar, or a function .* got"):
        recalibrate_batch_norm(net(), batches(), progress=progress)
