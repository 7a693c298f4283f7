"""Channels as a few runs."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_channels.mutables.runs import Runs, runs_of


def channels(runs: tuple[Runs, ...]) -> list[int]:
    return [
        run.start + stretch * run.step + channel
        for run in runs
        for stretch in range(run.number)
        for channel in range(run.length)
    ]


@given(st.sets(st.integers(0, 60), min_size=1))
def test_they_are_the_channels_in_order(kept: set[int]) -> None:
    assert channels(runs_of(torch.tensor(sorted(kept)))) == sorted(kept)


def test_equal_stretches_at_equal_distances_are_one() -> None:
    dense = [*range(32), *(64 + 32 * layer + channel for layer in range(20) for channel in range(16))]
    assert runs_of(torch.tensor(dense)) == (Runs(0, 1, 32, 32), Runs(64, 20, 32, 16))
    heads = [768 * tile + channel for tile in range(3) for channel in range(384)]
    assert runs_of(torch.tensor(heads)) == (Runs(0, 3, 768, 384),)
    assert runs_of(torch.tensor([5])) == (Runs(5, 1, 1, 1),)


def test_too_many_are_not_looked_at() -> None:
    torch.manual_seed(0)
    assert runs_of(torch.randperm(4096)[:2000].sort().values) == ()
    assert len(channels(runs_of(torch.arange(0, 510, 2)))) == 255
