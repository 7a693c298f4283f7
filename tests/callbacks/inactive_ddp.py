"""Runs in two processes; called by the tests as ``python -m tests.callbacks.inactive_ddp FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lightning_channels import ChannelPruning
from tests.callbacks import ddp


class Module(ddp.Module):
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


def main(folder: Path) -> None:
    ddp.fit(folder, ChannelPruning(seed=3, update_inactive=False), Module())


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
