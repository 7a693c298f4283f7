"""The two halves of examples/train.py: train the slimmable network, then report on its subnets."""

import logging
import shlex
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig

from lightning_channels import ChannelMutator, newest_checkpoint
from slimmable.classifier import Classifier
from slimmable.report import Batch, Latency, Row, export_at, measure, on_device, save, subnets_of, table

_WRITTEN = {
    "*.ckpt": "checkpoint: weights, optimizer state, the slimmable network's structure",
    "*.structure.yaml": "structure file: rebuilds the mutator without tracing",
    "width_*.pt": "exported subnet, a plain module for torch.load",
    "results.json": "the table's figures",
    "metrics/metrics.csv": "losses, accuracies and the active share of FLOPs and parameters, step by step",
}

_PROGRAM = "lightning-channels" if shutil.which("lightning-channels") else f"{sys.executable} -m lightning_channels"
"""What a shell finds: in an environment that isn't active, as of ``make train``, its Python."""

# Said by torch about code of Lightning's, and by Lightning about Hydra's output folder, which is another in each run.
warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")
warnings.filterwarnings("ignore", message="The dirpath has changed from .*")

# Hydra logs what reaches the root logger; Lightning prints its messages itself, and once is enough.
logging.getLogger("lightning").propagate = False


@dataclass(frozen=True)
class Trained:
    """What training leaves behind."""

    classifier: Classifier
    mutator: ChannelMutator
    data: L.LightningDataModule
    trainer: L.Trainer

    def batches(self, held_out: bool) -> Iterator[Batch]:
        """The training or the held-out images, on the network's device."""
        loader = self.data.test_dataloader() if held_out else self.data.train_dataloader()
        return on_device(loader, self.classifier.device)


class PrintEpochs(Callback):
    """One line a validation, where no progress bar can be shown."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            metrics = trainer.callback_metrics
            names = ["train/loss", *sorted(name for name in metrics if name.startswith("val/accuracy"))]
            shown = [f"{name} {float(metrics[name]):.4f}" for name in names if name in metrics]
            print(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: {', '.join(shown)}", flush=True)


def begin(config: DictConfig) -> tuple[Classifier, L.LightningDataModule]:
    """The network, in the module that trains it, and the data; seeds all there is to seed."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, workers=True)
    data = instantiate(config.data)
    return instantiate(config.module, _convert_="all"), data


def trainer_for(
    config: DictConfig, output: Path, name: str, *callbacks: Callback, metrics: str = "metrics"
) -> L.Trainer:
    """The config's trainer, which leaves a checkpoint of this name and the metrics in the output folder."""
    with_bar = config.trainer.enable_progress_bar and sys.stdout.isatty()
    saving = ModelCheckpoint(
        output, filename=name, enable_version_counter=False, save_on_train_epoch_end=True, every_n_epochs=1
    )
    shown = [] if with_bar else [PrintEpochs()]
    return instantiate(
        config.trainer,
        callbacks=[*callbacks, saving, *shown],
        logger=CSVLogger(output, name=metrics, version=""),
        enable_progress_bar=with_bar,
        _convert_="all",
    )


def train(config: DictConfig, output: Path) -> Trained:
    """Train as the config says.

    Args:
        config: conf/train.yaml, composed.
        output: Folder for the checkpoint, the structure file beside it and the metrics.
    """
    classifier, data = begin(config)
    pruning = instantiate(config.callback)  # the one line that makes the network slimmable
    trainer = trainer_for(config, output, "slimmable", pruning)
    checkpoint = config.ckpt_path
    if checkpoint is not None and Path(checkpoint).is_dir():
        checkpoint = newest_checkpoint(checkpoint)
    trainer.fit(classifier, data, ckpt_path=checkpoint)
    return Trained(classifier, pruning.mutator, data, trainer)


def evaluate(trained: Trained, config: DictConfig, output: Path | None = None) -> list[Row]:
    """Export and measure the subnet of each width.

    Args:
        trained: What :func:`train` returned.
        config: Its config.
        output: Folder for the exported subnets; None writes none.
    """
    classifier = trained.classifier.to(trained.trainer.strategy.root_device)
    latency = latency_of(config)
    rows = []
    for width, choices in subnets_of(trained.mutator, config.report.widths):
        train_batches = trained.batches(held_out=False) if config.report.recalibrate else None
        subnet = export_at(classifier.net, trained.mutator, choices, train_batches)
        rows.append(measure(subnet, width, list(trained.batches(held_out=True)), latency))
        if output is not None:
            torch.save(subnet, output / f"width_{width:g}.pt")
    return rows


def latency_of(config: DictConfig) -> Latency:
    """How the config wants latency measured."""
    report = config.report
    return Latency(batch_size=report.latency_batch_size, threads=report.latency_threads, runs=report.latency_runs)


def report(trained: Trained, config: DictConfig, output: Path) -> None:
    """Measure every width, print the table, write the files and say where they are."""
    if not trained.trainer.is_global_zero:
        return
    rows = evaluate(trained, config, output)
    save(rows, latency_of(config), output / "results.json")
    held_out = len(trained.data.test_set)
    print(f"\n{held_out:,} held-out images, {len(rows)} widths of one set of weights\n")
    print(table(rows, latency_of(config)))
    if config.report.recalibrate:
        before = "" if config.callback.recalibrate else "; the validation above ran without that"
        print(f"Batch-norm statistics were recalibrated for each width{before}.")
    print(f"\nwritten to {output}:")
    for pattern, what in _WRITTEN.items():
        for path in sorted(output.glob(pattern)):
            print(f"  {path.relative_to(output)!s:30s}{what}")
    print(next_commands(output))


def next_commands(output: Path) -> str:
    """What to do with a run's folder, as commands to copy."""
    run, search = shlex.quote(str(output)), shlex.quote(str(output / "search.json"))
    page = shlex.quote(str(output / "report.html"))
    found = f"{run} --limit flops=0.5 --metric val/accuracy --recalibrate 4 --budget 30 -o {search}"
    return (
        "\nnext, the best widths within half of the FLOPs, and a page to look at them:\n"
        f"  {_PROGRAM} search {found}\n"
        f"  {_PROGRAM} report {run} --search {search} -o {page}"
    )
