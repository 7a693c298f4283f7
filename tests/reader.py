"""What somebody who reads the README or the documentation has already."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["MyLightningModule", "readers_names"]


class MyLightningModule(L.LightningModule):
    """The module that a reader has already."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3),
            nn.Flatten(),
            nn.Linear(432, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def readers_names(samples: int) -> dict[str, Any]:
    """The names that code blocks use without making them."""
    images, labels = torch.randn(samples, 1, 8, 8), torch.randint(0, 3, (samples,))
    loader = DataLoader(TensorDataset(images, labels), batch_size=8)
    return {"MyLightningModule": MyLightningModule, "train_loader": loader, "val_loader": loader}
