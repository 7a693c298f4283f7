"""What the documentation calls ``my_project``: the modules that a reader has already."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from reader import MyLightningModule
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["MyDataModule", "MyLightningModule"]


class MyDataModule(L.LightningDataModule):
    """Noise, whose class is where it is brightest."""

    def setup(self, stage: str) -> None:
        images = torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.data = TensorDataset(images, images.flatten(1)[:, :3].argmax(1))

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, 32, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.data, 32)
