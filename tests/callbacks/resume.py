"""Continues a run in a process of its own: ``python -m tests.callbacks.resume CHECKPOINT RESULT``."""

from __future__ import annotations

import sys
from typing import Any

import torch

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, Watch, loader, trainer
from tests.callbacks.noise import ByEpoch


class Scheduled(Classifier):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def run(path: Any, epochs: int, checkpoint: Any = None, save: Any = None) -> dict[str, Any]:
    """Train, and return all that a run leaves behind."""
    pruning = ChannelPruning(seed=5)
    watch = Watch(pruning)
    module = Scheduled()
    fitted = trainer(path, pruning, watch, max_epochs=epochs)
    fitted.fit(module, loader(shuffle=False, sampler=ByEpoch()), loader(shuffle=False), ckpt_path=checkpoint)
    if save is not None:
        fitted.save_checkpoint(save)
    return {
        "weights": module.state_dict(),
        "optimizer": fitted.optimizers[0].state_dict(),
        "choices": watch.train,
        "active": pruning.mutator.current_choices,
        "scheduler": fitted.lr_scheduler_configs[0].scheduler.state_dict()["_last_lr"],
    }


if __name__ == "__main__":
    torch.save(run(sys.argv[2] + ".runs", 2, checkpoint=sys.argv[1]), sys.argv[2])
