"""A user's own module and data."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Mine(L.LightningModule):
    def __init__(self, hidden=12):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 3))

    def forward(self, x):
        return self.encoder(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(L.LightningDataModule):
    def setup(self, stage):
        x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
        self.set = TensorDataset(x, x[:, :3].argmax(1))

    def train_dataloader(self):
        return DataLoader(self.set, 16)

    def val_dataloader(self):
        return DataLoader(self.set, 16)


class Other(Mine):
    """A supernet that is another: two hidden layers."""

    def __init__(self):
        super().__init__()
        self.encoder.append(nn.Linear(3, 5))
        self.encoder.append(nn.Linear(5, 3))


class BuiltInSetup(Mine):
    """Has no net before ``setup``."""

    def __init__(self):
        super().__init__()
        self.encoder = None

    def setup(self, stage):
        if self.encoder is None:
            self.encoder = Mine().encoder


class BuiltWithTrainer(BuiltInSetup):
    def setup(self, stage):
        assert self.trainer.datamodule
