"""Runs in two processes; called by the tests as ``python -m tests.recalibration.two_ranks FOLDER``."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_channels import ChannelMutator, recalibrate_batch_norm, recalibrated

RANKS = 2
UNIT = "0_(0, 8)_8"
KEPT = [1, 4, 6]


def net(rank: int = 0) -> nn.Sequential:
    """The same weights on all ranks, and statistics that are each rank's own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6))
    for norm in (model[1], model[4]):
        norm.running_mean.normal_().add_(rank)
        norm.running_var.uniform_(1, 2).add_(rank)
        norm.num_batches_tracked.fill_(17 + rank)
    return model


def batches(rank: int, count: int) -> list[Tensor]:
    """The ranks' pictures differ a lot in brightness, so that the variance is mostly that between ranks."""
    generator = torch.Generator().manual_seed(10 + rank)
    return [torch.randn(5, 3, 6, 6, generator=generator) * (1 + rank) + 4 * rank + i for i in range(count)]


class OnCPU(nn.SyncBatchNorm):
    """A synchronised norm for the CPU, which torch's own refuses: the statistics of the union of all ranks' batches."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.get_world_size(self.process_group) < 2:
            union, mine = x, slice(None)
        else:
            parts = [torch.empty_like(x) for _ in range(RANKS)]
            gather(parts, x.contiguous())
            union, mine = torch.cat(parts), slice(dist.get_rank() * len(x), (dist.get_rank() + 1) * len(x))
        return F.batch_norm(union, self.running_mean, self.running_var, None, None, self.training, self.momentum)[mine]


def synchronised(rank: int) -> nn.Sequential:
    model = nn.Sequential(OnCPU(3, affine=False), nn.Identity())
    model[0].running_mean.fill_(5 + rank)
    return model


class Parts(nn.Module):
    """Norms of which each batch reaches one, or none."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(2) for _ in range(3))
        for norm in self.norms:
            norm.running_mean.fill_(9)

    def forward(self, x: Tensor, which: list[int]) -> None:
        for i in which:
            self.norms[i](x)


gather = dist.all_gather  # the counted one has another name


def counting(called: list[str]) -> None:
    """Write down each collective that the library calls."""

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return real(*args, **kwargs)

        return call

    for name in ("all_gather", "all_reduce", "broadcast"):
        setattr(dist, name, counted(name, getattr(dist, name)))


def error_of(run: Callable[[], Any]) -> str:
    try:
        run()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def failing(rank: int) -> Iterator[Tensor]:
    yield batches(rank, 1)[0]
    if rank == 1:
        raise OSError("no more pictures")


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    called: list[str] = []
    counting(called)
    found: dict[str, Any] = {}

    model = net(rank).train()
    random.seed(rank)
    torch.manual_seed(rank)
    generators = (random.getstate(), torch.get_rng_state().tolist())
    found["before"] = state_of(model)
    recalibrate_batch_norm(model, batches(rank, (3, 1)[rank]), lambda net, x: net(x + 0 * torch.rand(1)))
    found["unequal"], found["collectives"] = state_of(model), called.copy()
    found["restored"] = (
        generators == (random.getstate(), torch.get_rng_state().tolist()),
        all(module.training for module in model.modules()),
        [model[1].momentum, model[4].momentum] == [0.1, 0.1],
    )

    for name, count in (("none", (2, 0)), ("limited", (2, 5))):
        model = net(rank)
        recalibrate_batch_norm(model, batches(rank, count[rank]), num_batches=None if name == "none" else 2, sync=True)
        found[name] = state_of(model)
    model = net(rank)
    recalibrate_batch_norm(model, batches(rank, 2 + rank), sync=False)
    found["alone"] = state_of(model)
    if rank == 0:
        recalibrate_batch_norm(model, batches(rank, 2), sync=False)  # nobody else does

    model = net(rank)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(1, 3, 6, 6))
    mutator.name2unit[UNIT].keep(KEPT)
    recalibrate_batch_norm(model, batches(rank, (3, 1)[rank]))
    found["narrow"] = state_of(model)
    mutator.name2unit[UNIT].keep([0, 1] if rank else [0, 1, 2])
    before = state_of(model)
    found["differ"] = (error_of(lambda: recalibrate_batch_norm(model, batches(rank, 1))), same(model, before))

    model = net(rank)
    before = state_of(model)
    found["empty"] = (error_of(lambda: recalibrate_batch_norm(model, [])), same(model, before))
    found["fails"] = (error_of(lambda: recalibrate_batch_norm(model, failing(rank))), same(model, before))
    with recalibrated(model, batches(rank, (3, 1)[rank])):
        found["inside"] = state_of(model)
    found["after"] = same(model, before)

    parts = Parts()
    reached = [[0, 0], [0, 1]][rank]
    recalibrate_batch_norm(parts, [torch.arange(6.0).reshape(3, 2) + rank], lambda model, x: model(x, reached))
    found["parts"] = state_of(parts)

    model = nn.parallel.DistributedDataParallel(net())
    recalibrate_batch_norm(model, batches(rank, (3, 1)[rank]))
    found["ddp"] = state_of(model.module)

    for name, counts, sync in (("step", (2, 2), None), ("out of step", (3, 1), None), ("own", (2, 1), False)):
        model = synchronised(rank)
        group = model[0].process_group = dist.group.WORLD
        recalibrate_batch_norm(model, batches(rank, counts[rank]), sync=sync)
        assert model[0].process_group is group
        found[name] = state_of(model)
    model = synchronised(rank)
    recalibrate_batch_norm(model, batches(rank, (2, 0)[rank]))
    found["synchronised none"] = state_of(model)

    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.spawn(work, args=(str(Path(sys.argv[1]).resolve()),), nprocs=RANKS)
