"""Candidates spread over two processes, as torchrun starts them; one run of a script, looked at from several sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_channels import ConfigError, RankExecutor
from lightning_channels.search import search
from tests.callbacks.ranks import run_ranks
from tests.search.ranked import SEARCH
from tests.search.supernet import Net, evaluator, space_of

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks("tests.search.ranked", folder)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> Found:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The same search in one process, of a module that was never in a process group."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        module = Net()
        result = search(space_of(module), evaluator(module), **SEARCH)
        return json.loads(json.dumps(result.to_dict()))
    finally:
        torch.set_num_threads(threads)


def test_all_ranks_find_what_one_process_finds(found: Found, alone: dict[str, Any]) -> None:
    assert found[0]["result"] == found[1]["result"] == alone
    assert len(alone["candidates"]) == SEARCH["budget"]
    assert len({candidate["metrics"]["val_loss"] for candidate in alone["candidates"]}) > 5


def test_each_candidate_is_evaluated_once_on_one_rank(found: Found, alone: dict[str, Any]) -> None:
    seen = [json.dumps(choices) for one in found for choices in one["seen"]]
    assert sorted(seen) == sorted(json.dumps(candidate["choices"]) for candidate in alone["candidates"])
    assert min(len(one["seen"]) for one in found) >= 5


def test_the_first_rank_alone_writes_the_journal(folder: Path, alone: dict[str, Any]) -> None:
    assert len((folder / "whole0.jsonl").read_text().splitlines()) == 1 + len(alone["candidates"])
    assert not list(folder.glob("*1.jsonl"))


def test_a_rank_that_fails_ends_all(found: Found) -> None:
    assert found[1]["failure"] == "RuntimeError: the disk is full"
    assert found[0]["failure"] == "ChannelsError: the evaluation failed on rank 1: RuntimeError: the disk is full"


def test_the_search_goes_on_from_the_journal(found: Found, alone: dict[str, Any]) -> None:
    assert found[0]["resumed"] == found[1]["resumed"] == alone
    # a round of two for each rank was written down before the failure
    written = [json.dumps(choices) for one in found for choices in one["first"][:2]]
    again = [json.dumps(choices) for one in found for choices in one["second"]]
    assert len(written) + len(again) == SEARCH["budget"]
    assert not set(written) & set(again)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("other seed", "ConfigError: the ranks don't search for the same: rank 1 has other seed than rank 0"),
        ("other weights", "ConfigError: the ranks don't search for the same: rank 1 has other weights than rank 0"),
        ("other choices", "ConfigError: rank 1 was asked for other choices than rank 0"),
        ("damaged", "ConfigError: "),
    ],
)
def test_ranks_that_differ_are_refused(found: Found, what: str, message: str) -> None:
    for one in found:
        assert one[what].startswith(message)
    assert found[0][what] == found[1][what]


def test_without_other_processes() -> None:
    with pytest.raises(
        ConfigError, match=r"neither a process group nor a launcher's environment \(RANK, .*Start the program"
    ):
        RankExecutor()
    with pytest.raises(ConfigError, match="per_rank must be a whole number of at least 1, got 0"):
        RankExecutor(per_rank=0)
