"""Runs of the other package's Trainer; the tests call ``python -m tests.robust.with_pytorch_lightning FOLDER``."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_channels import ChannelPruning


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)
        return DataLoader(TensorDataset(x, y), batch_size=4)

    val_dataloader = train_dataloader


class Late(Module):
    """Built in configure_model."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential()

    def configure_model(self) -> None:
        self.net = self.net or Module().net


def fit(folder: Path, module: Module, *callbacks: Any, epochs: int = 1, **kwargs: Any) -> pl.Trainer:
    run = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        callbacks=list(callbacks),
    )
    run.fit(module, **kwargs)
    return run


def weights(module: Module) -> list[float]:
    return [float(tensor.double().sum()) for tensor in module.state_dict().values()]


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    for name, callbacks in (("plain", []), ("widest", [ChannelPruning(sampler="max")])):
        module = Module()
        fit(folder, module, *callbacks)
        found[name] = weights(module)
    late = Late()
    fit(folder, late, ChannelPruning(sampler="max"))
    found["late"] = weights(late)

    several = ChannelPruning(sampler="sandwich", validate=["min"], recalibrate=1)
    run = fit(folder, Module(), several)
    found["metrics"] = sorted(run.callback_metrics)
    fit(folder, Module(), ChannelPruning(sampler="sandwich", memory="lean"))
    fit(folder, Module(), ChannelPruning(update_inactive=False))

    whole, half = Module(), Module()
    fit(folder, whole, ChannelPruning(), epochs=2)
    saving = ModelCheckpoint(folder / "saved", save_last=True)
    fit(folder, half, ChannelPruning(), saving)
    found["files"] = sorted(path.name for path in (folder / "saved").glob("last*"))
    rest = Module()
    fit(folder, rest, ChannelPruning(), epochs=2, ckpt_path=folder / "saved" / "last.ckpt")
    found["whole"], found["resumed"] = weights(whole), weights(rest)

    class Stops(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ValueError("on purpose")

    module = Module()
    try:
        fit(folder, module, several, Stops())
    except ValueError:
        found["left"] = sorted({"training_step", "setup"} & set(vars(module)))
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
