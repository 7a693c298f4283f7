"""Two processes on gloo that prune; one run of a script, looked at from several sides."""

import pytest
import torch

from tests.callbacks.ddp import RANKS, STEPS
from tests.callbacks.prune_ddp import RUNS
from tests.callbacks.ranks import run_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks("tests.callbacks.prune_ddp", folder)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_ranks_prune_alike(folder, name):
    one, two = (torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(RANKS))
    assert one["finished"]
    assert len(one["kept"]) == STEPS
    assert one["kept"] == two["kept"]
    assert sum(map(len, one["kept"][-1].values())) < sum(map(len, one["kept"][0].values()))
    for key, value in one["weights"].items():
        assert torch.equal(value, two["weights"][key]), key


def test_rank_zero_measures_for_all(folder):
    assert [int((folder / f"measured{rank}.txt").read_text()) for rank in range(RANKS)] == [2 + 2 * 2, 0]
    one, two = (torch.load(folder / f"latency-{rank}.pt", weights_only=True)["reached"] for rank in range(RANKS))
    assert one == two


def test_what_rank_zero_cannot_measure_is_refused_by_all(folder):
    for rank in range(RANKS):
        assert "device must be one that latency can be measured on" in (folder / f"refused{rank}.txt").read_text()


def test_ranks_on_different_machines_take_the_divisor_of_the_first(folder):
    for rank in range(RANKS):
        kept = torch.load(folder / f"auto-{rank}.pt", weights_only=True)["kept"][-1]
        assert [len(channels) for channels in kept.values()] == [8, 8]


def test_ranks_that_would_keep_other_channels_are_refused(folder):
    for rank in range(RANKS):
        assert "the ranks don't agree on which channels to keep" in (folder / f"refused{rank}.txt").read_text()
