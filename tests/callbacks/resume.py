"""Continues a run in a process of its own: ``python -m tests.callbacks.resume CHECKPOINT RESULT``."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
import torch

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, Watch, loader, trainer


def seeded_loader() -> Any:
    """The order of an epoch's batches is a function of the epoch, so that a resumed run sees the same ones."""

    class BySeed(torch.utils.data.Sampler):
        epoch = 0

        def __len__(self) -> int:
            return 24

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __iter__(self) -> Any:
            return iter(torch.randperm(24, generator=torch.Generator().manual_seed(self.epoch)).tolist())

    return loader(shuffle=False, sampler=BySeed())


class Seeded(L.Callback):
    """Dropout is a function of the step: Lightning restores no random state, and draws from it when loaders begin."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(100 * trainer.current_epoch + batch_idx)


class Scheduled(Classifier):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def run(path: Any, epochs: int, checkpoint: Any = None, save: Any = None) -> dict[str, Any]:
    """Train, and return all that a run leaves behind."""
    pruning = ChannelPruning(seed=5)
    watch = Watch(pruning)
    module = Scheduled()
    fitted = trainer(path, pruning, watch, Seeded(), max_epochs=epochs)
    fitted.fit(module, seeded_loader(), loader(shuffle=False), ckpt_path=checkpoint)
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
