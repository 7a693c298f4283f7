"""FSDP2 in two processes: ``ModelParallelStrategy`` with a module that is prepared before ``fully_shard``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, loader, trainer
from tests.callbacks.ranks import found_by_ranks, run_ranks
from tests.trainer.twins import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("fsdp")
    run_ranks("tests.trainer.fsdp_runs", folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return found_by_ranks(folder, weights_only=False)


def test_at_full_width_it_is_the_run_without_the_callback(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        plain, ours = rank["None sharded"], rank["max sharded"]
        for name in ("weights", "losses", "inputs"):
            assert_same(plain[name], ours[name])


@pytest.mark.parametrize("sampler", ["random", "sandwich"])
def test_at_other_widths_it_is_the_run_with_replicas(ranks: list[dict[str, Any]], sampler: str) -> None:
    """Parameters, choices and logged shares are those under DDP; statistics, which DDP copies to all ranks, are not."""
    for rank in ranks:
        sharded, replicated = rank[f"{sampler} sharded"], rank[f"{sampler} replicated"]
        assert sharded["choices"] == replicated["choices"]
        assert sharded["shares"] == replicated["shares"]
        assert set(sharded["shares"]) == {"channels/flops", "channels/params"}
        for name, value in replicated["weights"].items():
            if "running" not in name:
                torch.testing.assert_close(sharded["weights"][name], value, msg=name)
        assert not torch.equal(sharded["weights"]["net.0.weight"], rank["max sharded"]["weights"]["net.0.weight"])


@pytest.mark.parametrize(("name", "sampler"), [("whole", "random"), ("shards", "sandwich")])
def test_a_checkpoint_loads_into_a_sharded_model(ranks: list[dict[str, Any]], name: str, sampler: str) -> None:
    for rank in ranks:
        for key, value in rank[f"{sampler} sharded"]["weights"].items():
            if "running" not in key:
                assert torch.equal(rank[f"{name} loaded"][key], value), key


def test_a_whole_checkpoint_loads_into_one_process(folder: Path, ranks: list[dict[str, Any]], tmp_path: Path) -> None:
    module, pruning = Classifier(), ChannelPruning(mutator=folder / "whole.ckpt")
    trainer(tmp_path, pruning).validate(module, loader(), ckpt_path=folder / "whole.ckpt", verbose=False)
    assert_same(dict(module.state_dict()), ranks[0]["random sharded"]["weights"])
    assert (folder / "whole.structure.yaml").exists()


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        ("ShardedFirst", "is sharded already.*Prepare first: .*before fully_shard"),
        ("Switchable", "switchable norms.*can't be sharded.*Use DDP"),
        ("TensorParallel", "tensor parallelism.*can't be narrow"),
    ],
)
def test_what_cannot_be_narrow_is_refused(ranks: list[dict[str, Any]], build: str, reason: str) -> None:
    for rank in ranks:
        assert re.search(reason, rank["refused"][build])
