"""Runs in two processes; called by the tests as ``python -m tests.callbacks.inactive_ddp FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lightning_channels import ChannelPruning
from tests.callbacks import ddp
from tests.callbacks.nets import Watch


class Module(ddp.Module):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    pruning = ChannelPruning(seed=3, update_inactive=False)
    watch, module = Watch(pruning), Module()
    run = ddp.trainer(folder, pruning, watch)
    run.fit(module)
    torch.save({"weights": module.state_dict(), "choices": watch.train}, folder / f"rank{run.global_rank}.pt")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
