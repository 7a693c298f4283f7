"""Two processes on gloo that resume; one run of a script, looked at from several sides."""

import json

import pytest
import torch

from lightning_channels import ChannelPruning
from lightning_channels.callbacks._resume import RESUME
from tests.callbacks.noise import EPOCHS, entries, loader, train
from tests.callbacks.ranks import run_ranks
from tests.callbacks.resume_ddp import CHECKPOINTS, NAMES, PER_EPOCH, RANKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    run_ranks("tests.callbacks.resume_ddp", folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_each_rank_goes_on_where_it_was(folder, name):
    for rank in range(RANKS):
        straight = entries(folder / f"{name}{rank}")
        assert len(straight) == EPOCHS * PER_EPOCH
        for checkpoint in CHECKPOINTS:
            done = int(checkpoint.removeprefix("end"))
            assert entries(folder / f"{name}{rank}-{checkpoint}") == straight[done:], (rank, checkpoint)


def test_ranks_have_states_of_their_own(folder):
    saved = torch.load(folder / "drawn" / "5.ckpt", weights_only=True)[RESUME]
    assert saved["world_size"] == RANKS == len(saved["ranks"])
    one, two = (rank["random"]["torch"] for rank in saved["ranks"])
    assert not torch.equal(one, two)


def test_after_an_exception_no_rank_waits_for_another(folder):
    saved = torch.load(folder / "split" / "interrupted.ckpt", weights_only=True)[RESUME]
    assert saved["world_size"] == RANKS
    assert len(saved["ranks"]) == 1
    told = [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(RANKS)]
    assert [len(lines) for lines in told] == [1, 0]
    for rank in range(RANKS):
        straight, resumed = entries(folder / f"split{rank}")[2:], entries(folder / f"interrupted{rank}")
        assert [e["choices"] for e in resumed] == [e["choices"] for e in straight]


def test_another_number_of_processes_starts_fresh_and_says_so(folder, tmp_path):
    checkpoint = folder / "split" / "end3.ckpt"
    results = []
    for seed in (1, 2):
        pruning = ChannelPruning(seed=5)
        data = loader(stateful=False, by_epoch=True)
        with pytest.warns(UserWarning, match=r"written by 2 processes and is resumed by 1.*seed=5 and step 3"):
            results.append(train(tmp_path / f"diary{seed}", data, seed=seed, checkpoint=checkpoint, pruning=pruning))
    assert len(results[0]) == 2 * 6
    assert results[0] == results[1]
    straight = entries(folder / "split0")[PER_EPOCH:]
    choices = {tuple(e["step"][:2]): e["choices"] for e in results[0]}
    assert all(choices[tuple(entry["step"][:2])] == entry["choices"] for entry in straight)
