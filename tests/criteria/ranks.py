"""Collecting in two processes; called by the tests as ``python -m tests.criteria.ranks FOLDER``.

Each rank leaves its scores, and those of a single process that sees both ranks' batches as passes of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lightning_channels import build_criterion
from tests.criteria.nets import batch, chain, prepared

STEPS, ACCUMULATED = 2, 2


def collect(name: str, ranks: list[int], parallel: bool) -> dict[str, Any]:
    net: nn.Module = chain().eval()
    _, units = prepared(net, batch())
    criterion: Any = build_criterion(name)
    criterion.start(net, list(units.values()))
    model = DistributedDataParallel(net) if parallel else net
    for step in range(STEPS):
        model.zero_grad()
        for part in range(ACCUMULATED):
            if parallel:
                model.require_backward_grad_sync = part == ACCUMULATED - 1
            for rank in ranks:
                model(batch() * (rank + 1) - step + part / 2).square().mean().backward()
                criterion.after_backward()
    return {"scores": {key: criterion(unit) for key, unit in units.items()}, "passes": criterion.passes}


def run(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    alone = {name: collect(name, [0, 1], parallel=False) for name in ("taylor", "fisher")}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {name: collect(name, [rank], parallel=True) for name in ("taylor", "fisher")}
    torch.save({"found": found, "alone": alone}, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.spawn(run, (Path(sys.argv[1]),), nprocs=2)
