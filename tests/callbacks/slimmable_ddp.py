"""A slimmable network in two processes; called by the tests as ``python -m tests.callbacks.slimmable_ddp FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_channels import ChannelPruning
from tests.callbacks import ddp


class Module(ddp.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def main(folder: Path) -> None:
    unit: dict[str, Any] = {"type": "SlimmableChannelUnit", "default_args": {"candidate_choices": [4, 8, 16]}}
    pruning = ChannelPruning(mutator={"type": "SlimmableChannelMutator", "channel_unit_cfg": unit}, seed=3)
    ddp.fit(folder, pruning, Module())


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
