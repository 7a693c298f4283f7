"""A supernet, its data and its validation, which the processes of a test make alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Accuracy

from lightning_channels import ChannelMutator, SubnetEvaluator
from lightning_channels.search import SearchSpace
from tests.callbacks.nets import Classifier, loader

__all__ = ["Net", "evaluator", "space_of"]


class Net(Classifier):
    """Its accuracy is a metric that would ask the other processes for theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = Accuracy("multiclass", num_classes=4)
        self.mutator = ChannelMutator()
        self.mutator.prepare_from_supernet(self.net, torch.randn(2, 3, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", F.cross_entropy(logits, batch[1]), sync_dist=True)
        self.accuracy(logits, batch[1])
        self.log("val_acc", self.accuracy)


def space_of(module: Net, **arguments: Any) -> SearchSpace:
    return SearchSpace(module.mutator, **{"limits": {"macs": 0.6}, **arguments})


def evaluator(module: Net) -> SubnetEvaluator:
    data = {"dataloaders": loader(shuffle=False), "recalibrate_on": loader()}
    return SubnetEvaluator({"accelerator": "cpu"}, module, "val_loss", batches=3, recalibrate=2, **data)
