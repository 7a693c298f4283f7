"""scikit-learn's scanned digits, which come with its wheel."""

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


class DigitsData(L.LightningDataModule):
    """1,797 images of 8x8 pixels: 70 % to train with, 15 % to validate, 15 % to test."""

    def __init__(self, batch_size: int = 64, num_workers: int = 0) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str | None = None) -> None:
        pixels, labels = load_digits(return_X_y=True)
        images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 16 - 0.3
        everything = TensorDataset(images, torch.tensor(labels))
        parts = random_split(everything, (0.7, 0.15, 0.15), torch.Generator().manual_seed(0))
        self.train, self.val, self.test = parts

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test)

    def _loader(self, part, shuffle: bool = False) -> DataLoader:
        return DataLoader(part, self.hparams.batch_size, shuffle, num_workers=self.hparams.num_workers)
