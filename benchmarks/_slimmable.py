"""One training of ``slimmable.py``, in a process of its own: ``python -m benchmarks._slimmable --help``.

The recipe is that of ``examples/train.py experiment=digits_slimmable``. A network that is trained alone differs in one
thing: it is a plain module of its width, which Lightning trains without the callback.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import nn

from lightning_channels import ChannelMutator, build, config_dir, export_subnet, mutator_config, recalibrate_batch_norm
from lightning_channels._config import examples_dir

sys.path.insert(0, str(examples_dir()))  # the network, the data and how it is measured are those of the examples

from slimmable.classifier import Classifier
from slimmable.report import Row, choices_at, measure
from slimmable.run import Trained, evaluate, latency_of

__all__ = ["SameBatches", "alone", "recipe", "sandwich"]


def recipe(seed: int, epochs: int) -> DictConfig:
    """The experiment's config. Validation is off, which changes nothing in training, and so are timings."""
    overrides = ["experiment=digits_slimmable", f"seed={seed}", f"trainer.max_epochs={epochs}"]
    overrides += ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.limit_val_batches=0"]
    overrides += ["report.latency_runs=1", "report.latency_batch_size=1"]
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return compose("train", overrides)


class SameBatches(Callback):
    """Order and shifts of the images follow from the seed alone, not from what was drawn before training.

    Args:
        seed: For torch's generator, which both come from.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All is built and traced by now, and no batch is drawn yet."""
        torch.manual_seed(self.seed)


def sandwich(config: DictConfig) -> list[dict[str, Any]]:
    """Train all widths at once; each is then recalibrated, exported and measured."""
    pruning = instantiate(config.callback)
    net = _seeded_net(config)
    classifier, data, trainer = _fit(net, config, [pruning])
    return [_entry(row) for row in evaluate(Trained(classifier, pruning.mutator, data, trainer), config)]


def alone(config: DictConfig, width: float) -> list[dict[str, Any]]:
    """Train a plain network of one width; measured with its own statistics, and with recalibrated ones beside."""
    net = _seeded_net(config)
    mutator: ChannelMutator = build(mutator_config(config))
    mutator.prepare_from_supernet(net)
    mutator.set_choices(choices_at(mutator, width))
    plain = export_subnet(net).train()
    torch.manual_seed(config.seed)
    for module in plain.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()  # a slice of the wide network would begin at the scale of the wide one
    _, data, _ = _fit(plain, config, [])
    own = _measure(plain, width, data, config)
    recalibrate_batch_norm(plain, data.train_dataloader())
    return [_entry(own) | {"recalibrated": _measure(plain, width, data, config).accuracy}]


def _seeded_net(config: DictConfig) -> nn.Module:
    torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, workers=True)
    net: nn.Module = instantiate(config.model, _convert_="all")
    return net


def _fit(
    net: nn.Module, config: DictConfig, callbacks: list[Callback]
) -> tuple[Classifier, L.LightningDataModule, L.Trainer]:
    """What both kinds go through."""
    classifier = Classifier(net, config.model.num_classes, **config.optimizer)
    data: L.LightningDataModule = instantiate(config.data)
    callbacks = [*callbacks, SameBatches(config.seed)]
    trainer: L.Trainer = instantiate(
        config.trainer, callbacks=callbacks, logger=False, enable_checkpointing=False, _convert_="all"
    )
    trainer.fit(classifier, data)
    return classifier, data, trainer


def _measure(net: nn.Module, width: float, data: L.LightningDataModule, config: DictConfig) -> Row:
    return measure(net.eval(), width, list(data.test_dataloader()), latency_of(config))


def _entry(row: Row) -> dict[str, Any]:
    return {"width": row.width, "accuracy": row.accuracy, "flops": row.flops, "parameters": row.parameters}


def main() -> None:
    """Train, measure, and write the widths' figures to a file."""
    parser = argparse.ArgumentParser(description="train one network on the digits and measure it")
    parser.add_argument("result", type=Path, help="file for the JSON object")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--alone", type=float, metavar="WIDTH", help="a plain network of this width; default: sandwich")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    config = recipe(arguments.seed, arguments.epochs)
    widths = sandwich(config) if arguments.alone is None else alone(config, arguments.alone)
    row = {"widths": widths, "seconds": round(time.perf_counter() - begin, 1)}
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
