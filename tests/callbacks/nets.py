"""Tiny nets, modules and trainers that the callback's tests share; imported by their subprocesses, too."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

UNITS = ["net.0_(0, 8)_8", "net.3_(0, 12)_12"]
WIDTHS = {"net.0_(0, 8)_8": 8, "net.3_(0, 12)_12": 12}


def conv_net(classes: int = 4, width: int = 8, dropout: float = 0.2) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(12, classes),
    )


def images(count: int = 24, classes: int = 4) -> TensorDataset:
    generator = torch.Generator().manual_seed(7)
    return TensorDataset(
        torch.randn(count, 3, 6, 6, generator=generator), torch.randint(classes, (count,), generator=generator)
    )


def loader(shuffle: bool = True, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(images(), batch_size=4, shuffle=shuffle, **kwargs)


class Classifier(L.LightningModule):
    """Six batches an epoch; the net is built in ``__init__``."""

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = conv_net() if net is None else net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)


class Watch(L.Callback):
    """Writes down what is active at every batch and at every stage; to be put behind the callback under test."""

    def __init__(self, pruning: Any) -> None:
        self.pruning = pruning
        self.train: list[dict[str, Any]] = []
        self.evaluated: list[tuple[str, dict[str, Any]]] = []

    def now(self) -> dict[str, Any]:
        return dict(self.pruning.mutator.current_choices)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.train.append(self.now())

    def on_validation_batch_start(self, trainer: Any, *args: Any) -> None:
        self.evaluated.append(("sanity" if trainer.sanity_checking else "validate", self.now()))

    def on_test_batch_start(self, *args: Any) -> None:
        self.evaluated.append(("test", self.now()))

    def on_predict_batch_start(self, *args: Any) -> None:
        self.evaluated.append(("predict", self.now()))


def trainer(path: Any, *callbacks: L.Callback, **kwargs: Any) -> L.Trainer:
    arguments: dict[str, Any] = {
        "default_root_dir": path,
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, L.pytorch.callbacks.Checkpoint) for callback in callbacks),
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "callbacks": list(callbacks),
    }
    return L.Trainer(**{**arguments, **kwargs})
