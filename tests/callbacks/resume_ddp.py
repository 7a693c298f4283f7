"""Two processes that resume; called by the tests as ``python -m tests.callbacks.resume_ddp FOLDER``."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerStatus
from torch.utils.data import DistributedSampler, Subset

from lightning_channels import ChannelPruning
from tests.callbacks.noise import NoisyImages, loader, noise, saving, train

RANKS = 2
PER_EPOCH = 3

NAMES = ["split", "drawn"]
CHECKPOINTS = ["5", "3", "end3"]


class Interrupted(L.Callback):
    """Saves as after an exception, when the other ranks can't be asked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 2:
            trainer.state.status = TrainerStatus.INTERRUPTED
            trainer.save_checkpoint(self.path)
            trainer.state.status = TrainerStatus.RUNNING


class Drawing(L.Callback):
    """Takes the ranks' generators apart, which Lightning seeds alike when it sets the processes up."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers

    def on_fit_start(self, *args: Any) -> None:
        for _ in range(self.numbers):
            noise()


def data(name: str, rank: int, seed: int) -> Any:
    """Batches in the order of a sampler that shuffles by epoch and rank, or in one that each rank draws for itself."""
    if name == "drawn":
        torch.manual_seed(seed)
        return loader(data=Subset(NoisyImages(), range(12 * rank, 12 * rank + 12)))
    images = NoisyImages()
    return loader(data=images, sampler=DistributedSampler(images, RANKS, rank))


def run(diary: Path, batches: Any, *callbacks: L.Callback, drawn: int, checkpoint: Any = None) -> None:
    train(
        diary,
        batches,
        Drawing(drawn),
        *callbacks,
        seed=drawn,
        checkpoint=checkpoint,
        pruning=ChannelPruning(seed=5),
        accelerator="cpu",
        devices=RANKS,
        strategy=DDPStrategy(process_group_backend="gloo"),
        use_distributed_sampler=False,
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    for name in NAMES:
        callbacks = [*saving(folder / name), Interrupted(folder / name / "interrupted.ckpt")]
        run(folder / f"{name}{rank}", data(name, rank, rank), *callbacks, drawn=rank)
        for checkpoint in CHECKPOINTS:
            path = folder / name / f"{checkpoint}.ckpt"
            run(folder / f"{name}{rank}-{checkpoint}", data(name, rank, 5 + rank), drawn=5 + rank, checkpoint=path)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = folder / "split" / "interrupted.ckpt"
        run(folder / f"interrupted{rank}", data("split", rank, 0), drawn=5 + rank, checkpoint=path)
    told = [str(warning.message) for warning in caught if "after an exception" in str(warning.message)]
    (folder / f"told{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
