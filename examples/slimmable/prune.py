"""What examples/prune.py does: train, prune and fine-tune in one fit, export, compare."""

import copy
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_channels import ChannelPruning, export_subnet, recalibrate_batch_norm
from slimmable.classifier import Classifier
from slimmable.report import Latency, Row, measure, on_device, save, table
from slimmable.run import begin, latency_of, trainer_for

_NAMES = ("unpruned", "pruned")


def run(config: DictConfig, output: Path) -> list[Row]:
    """Train a network, prune it, and print what it was and is worth.

    Args:
        config: conf/prune.yaml, composed.
        output: Folder for checkpoints, metrics, the exported net and the figures.

    Returns:
        The unpruned network's figures, and the pruned one's.
    """
    classifier, data = begin(config)
    pretrain(classifier, data, config, output)
    unpruned = copy.deepcopy(classifier.net).eval()

    pruning: ChannelPruning = instantiate(config.callback)
    trainer = trainer_for(config, output, "pruned", pruning)
    trainer.fit(classifier, data)  # prunes and fine-tunes
    small = export(classifier.to(trainer.strategy.root_device), data, config)

    latency = latency_of(config)
    share = sum(pruning.mutator.name2unit[name].check_choice(n) for name, n in pruning.mutator.current_choices.items())
    widths = (1.0, share / sum(unit.num_channels for unit in pruning.mutator.mutable_units))
    rows = [
        measure(net, width, list(on_device(data.test_dataloader(), classifier.device)), latency)
        for net, width in zip((unpruned.to(classifier.device), small), widths, strict=True)
    ]
    if trainer.is_global_zero:
        torch.save(small, output / "pruned.pt")
        save(rows, latency, output / "results.json")
        print(f"\n{compared(rows, latency)}\n\nwritten to {output}: pruned.pt, pruned.ckpt, results.json")
    return rows


def pretrain(classifier: Classifier, data: L.LightningDataModule, config: DictConfig, output: Path) -> None:
    """Load a trained network, or train one as if there were no pruning."""
    if config.pretrained is not None:
        classifier.load_state_dict(torch.load(config.pretrained, map_location="cpu", weights_only=True)["state_dict"])
        return
    own = OmegaConf.merge(config, {"trainer": config.pretraining})
    trainer_for(own, output, "unpruned", metrics="pretraining").fit(classifier, data)


def export(classifier: Classifier, data: L.LightningDataModule, config: DictConfig) -> nn.Module:
    """The pruned network as a plain module, with batch-norm statistics of its own."""
    if config.report.recalibrate:
        batches = on_device(data.train_dataloader(), classifier.device)
        recalibrate_batch_norm(classifier.net, batches, sync=False)  # every rank for itself; rank zero saves
    return export_subnet(classifier.net).eval()


def compared(rows: list[Row], latency: Latency) -> str:
    """The table of both, with their names."""
    head, *lines = table(rows, latency).split("\n")
    named = [f"{name:10s}{line}" for name, line in zip(_NAMES, lines, strict=False)]
    return "\n".join([f"{'':10s}{head}", *named, *lines[len(rows) :]])
