"""Runs that draw random numbers wherever a run can, and write down what came of each step."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, images, trainer

EPOCHS, BATCHES = 3, 6


def noise() -> float:
    """Of all three libraries."""
    return float(torch.rand(()) + random.random() + np.random.rand()) / 10  # noqa: NPY002


class NoisyImages(Dataset[Any]):
    def __init__(self) -> None:
        self.images = images(4 * BATCHES)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.images[index]
        return x + noise(), y


class ByEpoch(Sampler[int]):
    """The order is a function of the epoch, and known as soon as there is an iterator."""

    epoch = 0

    def __len__(self) -> int:
        return 4 * BATCHES

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Any:
        return iter(torch.randperm(len(self), generator=torch.Generator().manual_seed(self.epoch)).tolist())


def loader(
    stateful: bool = True, by_epoch: bool = False, data: Dataset[Any] | None = None, **kwargs: Any
) -> DataLoader[Any]:
    order: dict[str, Any] = {"sampler": ByEpoch()} if by_epoch else {} if "sampler" in kwargs else {"shuffle": True}
    kind: Any = StatefulDataLoader if stateful else DataLoader
    made: DataLoader[Any] = kind(NoisyImages() if data is None else data, batch_size=4, **order, **kwargs)
    return made


class Noisy(Classifier):
    """With dropout in its net."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0] * (1 + noise())), batch[1])


class Diary(L.Callback):
    """Appends a line after each step, which stays there whatever becomes of the process."""

    def __init__(self, path: Path, pruning: ChannelPruning | None) -> None:
        self.path = path
        self.pruning = pruning

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        weights = b"".join(tensor.numpy().tobytes() for tensor in pl_module.state_dict().values())
        entry = {
            "step": [trainer.current_epoch, batch_idx, trainer.global_step],
            "choices": None if self.pruning is None else self.pruning.mutator.current_choices,
            "kept": None if self.pruning is None else self.pruning.mutator.kept_channels(),
            "weights": hashlib.sha256(weights).hexdigest()[:16],
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def saving(folder: Path, every: int = 1) -> list[L.Callback]:
    """A checkpoint after every so many steps, and one at each epoch's end."""
    return [
        ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1, auto_insert_metric_name=False),
        ModelCheckpoint(
            folder,
            "end{step}",
            every_n_epochs=1,
            save_top_k=-1,
            save_on_train_epoch_end=True,
            auto_insert_metric_name=False,
        ),
    ]


def train(
    diary: Path,
    data: DataLoader[Any],
    *callbacks: L.Callback,
    seed: int,
    checkpoint: Any = None,
    pruning: ChannelPruning | None = None,
    validation: DataLoader[Any] | None = None,
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """Train, and return the diary's entries; the seed is of no matter to a run that resumes exactly."""
    L.seed_everything(seed, verbose=False)
    arguments = {"max_epochs": EPOCHS, **kwargs}
    ours = [] if pruning is None else [pruning]
    run = trainer(diary.parent, *ours, Diary(diary, pruning), *callbacks, **arguments)
    run.fit(Noisy(), data, validation, ckpt_path=checkpoint)
    return entries(diary)
