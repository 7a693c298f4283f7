"""Sandwich training in two processes; called by the tests as ``python -m tests.callbacks.sandwich_ddp FOLDER``.

One run for each way of reducing gradients and of running the passes; each rank leaves its weights.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, Subset

from lightning_channels import ChannelPruning
from tests.callbacks.nets import images, trainer
from tests.callbacks.sandwich import SANDWICH, Net, Plain

STRATEGIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "static_graph": {"static_graph": True},
    "find_unused": {"find_unused_parameters": True},
}
RUNS = [
    (name, memory, accumulate)
    for name, memory, accumulate in itertools.product(STRATEGIES, ("fast", "lean"), (1, 2))
    if (name, accumulate) != ("static_graph", 2)  # which fails in torch's own reducer, whatever is trained
]


def halves(rank: int) -> DataLoader[Any]:
    """Every second pair of images: together the ranks see batches of four."""
    own = [index for index in range(24) if index // 2 % 2 == rank]
    return DataLoader(Subset(images(), own), batch_size=2)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, memory, accumulate in RUNS:
        module = Plain()
        pruning = ChannelPruning(sampler=SANDWICH, module="net", seed=4, memory=memory)  # type: ignore[arg-type]
        run = trainer(
            folder,
            pruning,
            devices=2,
            strategy=DDPStrategy(process_group_backend="gloo", **STRATEGIES[name]),
            use_distributed_sampler=False,
            accumulate_grad_batches=accumulate,
            max_epochs=2,
        )
        run.fit(module, halves(int(os.environ.get("LOCAL_RANK", "0"))))
        torch.save(module.net.state_dict(), folder / f"{name}-{memory}-{accumulate}-{run.global_rank}.pt")


class Statistics(L.Callback):
    """The first norm's statistics while the narrowest subnet is validated."""

    def __init__(self) -> None:
        self.mean = self.var = torch.zeros(())

    def on_validation_batch_start(self, trainer: Any, module: Any, *args: Any) -> None:
        if module.net[0].out_channels == 2:
            self.mean, self.var = module.net[1].running_mean.clone(), module.net[1].running_var.clone()


def validate(folder: Path) -> None:
    """Validate the narrowest subnet on statistics of both ranks' training batches."""
    module, watch = Net(), Statistics()
    pruning = ChannelPruning(module="net", sampler=SANDWICH, validate=["max", 0.25], recalibrate=2)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    run = trainer(
        folder,
        pruning,
        watch,
        devices=2,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
    )
    run.fit(module, halves(rank), halves(rank))
    found = {"mean": watch.mean, "var": watch.var, "metrics": dict(run.callback_metrics)}
    torch.save({**found, "weights": module.net.state_dict()}, folder / f"validated-{run.global_rank}.pt")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
    validate(Path(sys.argv[1]))
