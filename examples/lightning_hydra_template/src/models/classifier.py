"""The project's LightningModule."""

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy


class LitClassifier(L.LightningModule):
    """Cross entropy; optimizer and scheduler are given as partials."""

    def __init__(self, net: nn.Module, optimizer: Callable[..., Optimizer], scheduler: Callable[..., Any]) -> None:
        super().__init__()
        self.net, self.optimizer, self.scheduler = net, optimizer, scheduler
        self.criterion = nn.CrossEntropyLoss()
        metrics = {part: MulticlassAccuracy(10, average="micro") for part in ("train", "val", "test")}
        self.accuracies = nn.ModuleDict({f"{part}_acc": metric for part, metric in metrics.items()})

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step(batch, "test")

    def _step(self, batch: tuple[Tensor, Tensor], part: str) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = self.criterion(logits, labels)
        accuracy = self.accuracies[f"{part}_acc"]
        accuracy(logits, labels)
        self.log(f"{part}/loss", loss, on_step=False, on_epoch=True)
        self.log(f"{part}/acc", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        optimizer = self.optimizer(params=self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer=optimizer)}
