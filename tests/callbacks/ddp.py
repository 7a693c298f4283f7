"""Runs in two processes; called by the tests as ``python -m tests.callbacks.ddp FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_channels import ChannelPruning
from lightning_channels.samplers import FixedSampler
from tests.callbacks.nets import Watch

STEPS, BATCH, RANKS = 20, 4, 2


def mlp() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    count = STEPS * BATCH * RANKS
    return torch.randn(count, 6, generator=generator), torch.randint(3, (count,), generator=generator)


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def train_dataloader(self) -> Any:
        x, y = data()
        mine = slice(self.global_rank, None, RANKS)
        return DataLoader(TensorDataset(x[mine], y[mine]), batch_size=BATCH)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer(folder: Path, *callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=RANKS,
        strategy=DDPStrategy(process_group_backend="gloo"),
        max_epochs=1,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=list(callbacks),
        **kwargs,
    )


def fit(folder: Path, pruning: ChannelPruning, module: L.LightningModule) -> L.Trainer:
    """Train, and leave each rank's weights and choices in the folder."""
    torch.set_num_threads(1)
    watch = Watch(pruning)
    run = trainer(folder, pruning, watch)
    run.fit(module)
    torch.save({"weights": module.state_dict(), "choices": watch.train}, folder / f"rank{run.global_rank}.pt")
    return run


class RanksByRank(L.Callback):
    """Lets each rank keep other channels, where it is the last of the wrong ones."""

    def __init__(self, pruning: ChannelPruning) -> None:
        self.pruning = pruning

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if isinstance(self.pruning.sampler, FixedSampler):
            self.pruning.mutator.mutable_units[0].rank([float(trainer.global_rank)] + [0.5] * 15)


def main(folder: Path) -> None:
    run = fit(folder, ChannelPruning(seed=3), Module())
    run.save_checkpoint(folder / "ddp.ckpt")
    rank = run.global_rank

    strongest = ChannelPruning(unit="l1", seed=3)
    trainer(folder, strongest, limit_train_batches=3).fit(Module())
    strongest.mutator.set_choices(strongest.mutator.sample_choices("min"))
    torch.save(strongest.mutator.kept_channels(), folder / f"kept{rank}.pt")

    refusals = []
    for wrong in (
        ChannelPruning(seed=rank),
        ChannelPruning(unit=("SequentialMutableChannelUnit", "one_shot")[rank]),
        ChannelPruning(unit={"type": "sequential", "default_args": {"divisor": (4, 8)[rank]}}, sampler="max"),
        ChannelPruning(choices={}),
    ):
        try:
            trainer(folder, wrong, RanksByRank(wrong), limit_train_batches=1).fit(Module())
        except MisconfigurationException as error:
            refusals.append(str(error))
    (folder / f"refused{rank}.txt").write_text("\n".join(refusals))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
