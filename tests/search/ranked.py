"""Two processes that search together; called by the tests as ``python -m tests.search.ranked FOLDER``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from lightning_channels import ChannelsError, RankExecutor
from lightning_channels.search import search
from tests.callbacks.ranks import run_as_torchrun_does
from tests.search.supernet import Net, evaluator, space_of

SEARCH: dict[str, Any] = {"algorithm": "evolution", "metric": "val_loss", "mode": "min", "budget": 13, "seed": 2}


def counted(evaluate: Callable[..., Any], seen: list[Any], fails_at: int | None = None) -> Callable[..., Any]:
    """An evaluation that notes what it is asked for, and may fail."""

    def evaluated(choices: Any) -> Any:
        if len(seen) == fails_at:
            raise RuntimeError("the disk is full")
        seen.append(dict(choices))
        return evaluate(choices)

    return evaluated


def refusal(run: Callable[[], Any]) -> str:
    try:
        run()
    except (ChannelsError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "went through"


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    executor = RankExecutor(per_rank=2)
    rank, found, module = executor.rank, {}, Net()
    space, evaluate = space_of(module), evaluator(module)

    def run(evaluate: Any, journal: str | None = None, **arguments: Any) -> Any:
        path = None if journal is None else folder / f"{journal}{rank}.jsonl"
        return search(space, evaluate, **{**SEARCH, **arguments}, journal=path, executor=executor).to_dict()

    found["seen"] = []
    found["result"] = run(counted(evaluate, found["seen"]), "whole")
    # rank 1 fails in its second round, of which nothing is written down
    found["first"], found["second"] = [], []
    fails_at = 3 if rank == 1 else None
    found["failure"] = refusal(lambda: run(counted(evaluate, found["first"], fails_at), "resumed"))
    found["resumed"] = run(counted(evaluate, found["second"]), "resumed")
    found["other seed"] = refusal(lambda: run(evaluate, seed=rank))
    found["other choices"] = refusal(lambda: executor.map(evaluate, [{"0_(0, 8)_8": 3 + rank}]))
    if rank == 0:
        (folder / "damaged0.jsonl").write_text("no journal\n")
    found["damaged"] = refusal(lambda: run(evaluate, "damaged"))
    with torch.no_grad():
        module.net[0].weight.add_(rank)
    found["other weights"] = refusal(lambda: run(evaluate))
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    if "RANK" in os.environ:
        main(Path(sys.argv[1]))
    else:
        run_as_torchrun_does("tests.search.ranked", sys.argv[1])
