"""Distributed data parallel, in two processes: with the callback at full width and without, and at random widths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.callbacks.nets import UNITS
from tests.callbacks.ranks import found_by_ranks, run_ranks
from tests.trainer.ddp_runs import CASES
from tests.trainer.twins import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("ddp")
    run_ranks("tests.trainer.ddp_runs", folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    return found_by_ranks(folder, weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_at_full_width_it_is_the_same_on_each_rank(ranks: list[dict[str, Any]], case: str) -> None:
    for rank in ranks:
        assert_same(rank[case]["None"], rank[case]["max"])
    first, second = (rank[case]["max"] for rank in ranks)
    assert len(first["inputs"]) == first["progress"][1] * 3
    assert not torch.equal(first["inputs"][0], second["inputs"][0])


@pytest.mark.parametrize("case", CASES)
def test_at_random_widths_the_ranks_stay_equal(ranks: list[dict[str, Any]], case: str) -> None:
    first, second = (rank[case]["random"] for rank in ranks)
    parameters = {name for name in first["weights"] if name not in first["buffers"]}
    for name in parameters:
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        assert first["weights"][name].isfinite().all()
    assert not torch.equal(first["weights"]["net.0.weight"], ranks[0][case]["max"]["weights"]["net.0.weight"])
    choices = [rank[case]["choices"] for rank in ranks]
    assert choices[0] == choices[1]
    assert list(choices[0][0]) == UNITS
    assert len({tuple(step.values()) for step in choices[0]}) > len(choices[0]) // 2


def test_the_first_rank_alone_writes_structures_and_each_checkpoint_has_one(folder: Path) -> None:
    checkpoints = {path.name.removesuffix(".ckpt") for path in (folder / "kept").glob("*.ckpt")}
    assert len(checkpoints) == 2
    assert {path.name for path in (folder / "kept").glob("*.yaml")} == {
        f"{name}.structure.yaml" for name in checkpoints
    }
    assert not list(folder.rglob("*.tmp"))


def test_synchronised_norms_are_dynamic_and_refused_on_the_cpu_by_torch_alone(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        plain, ours = rank["synchronised"]
        assert plain["norms"] == []  # Lightning has turned them back
        assert ours["norms"] == [(True, 8), (True, 12)]
        assert plain["error"] == ours["error"] == "SyncBatchNorm layers only work with GPU modules"
