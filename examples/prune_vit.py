"""Prune a trained vision transformer to half its FLOPs, fine-tune it, and load it where the package isn't installed.

A Hydra app on conf/prune_vit.yaml:

    python examples/prune_vit.py
    python examples/prune_vit.py flops=0.4 trainer.max_epochs=60
    python examples/prune_vit.py --multirun seed=0,1,2

Whole attention heads and hidden units of the MLPs are dropped, the same share in every block; the embedding keeps its
width. Those stay whose weights have the largest norm.
"""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import lightning as L
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_channels import ChannelMutator, MutableChannelUnit, ResourceCounter, config_dir
from slimmable.classifier import Classifier
from slimmable.run import PrintEpochs

EXAMPLES = Path(__file__).resolve().parent


class ViTClassifier(Classifier):
    """The examples' classifier with the optimizer that transformers are trained with."""

    def configure_optimizers(self):
        lr = self.hparams["lr"]
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=self.hparams["weight_decay"])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(net: nn.Module, data: L.LightningDataModule, config: DictConfig) -> None:
    """Train a net, pruned or not, with plain Lightning."""
    classifier = ViTClassifier(net.train(), config.model.num_classes, **config.optimizer)
    quiet = {"logger": False, "enable_checkpointing": False}
    trainer = instantiate(config.trainer, callbacks=[PrintEpochs()], **quiet, _convert_="all")
    trainer.fit(classifier, data)
    net.eval()


# --- pruning ---------------------------------------------------------------------------------------------------------


def prune(net: nn.Module, config: DictConfig) -> nn.Module:
    """A smaller copy of ``net`` with the strongest heads and hidden units, as many as the FLOPs allow."""
    unit_config = {"type": "SequentialMutableChannelUnit", "default_args": {"choice_mode": "ratio"}}
    mutator = ChannelMutator(unit_config, parse_cfg=config.tracer)
    mutator.prepare_from_supernet(net)
    # a block's own units: heads and hidden units; the embedding's is named after the convolution that makes it
    units = [unit for unit in mutator.mutable_units if unit.name.startswith("blocks.")]
    scores = {unit: strengths(net, unit) for unit in units}  # now: a narrowed layer's weight is narrow
    ratio = find_ratio(mutator, units, config.flops)
    mutator.set_choices({unit.name: ratio for unit in units})  # how many stay: the first ones
    for unit in units:  # which ones stay
        unit.keep(scores[unit].topk(unit.mutable_channel.activated_channels).indices)
    small = mutator.export()
    mutator.restore()  # the net is as plain and as wide as before
    return small


def strengths(net: nn.Module, unit: MutableChannelUnit) -> Tensor:
    """The L2 norm of the weights that compute each channel; of all its queries', keys' and values' for a head."""
    squares = torch.zeros(unit.num_channels)
    for channel in unit.output_related:
        weight = net.get_submodule(channel.name).weight.detach()[channel.start : channel.end]
        squares += weight.reshape(unit.num_channels, -1).square().sum(1)  # a head's rows follow each other
    return squares.sqrt()


def find_ratio(mutator: ChannelMutator, units: Iterable[MutableChannelUnit], flops: float) -> float:
    """The largest share of every unit's channels with which no more than a share of the FLOPs is left, by bisection.

    Raises:
        ValueError: If even the narrowest units leave more.
    """
    counter = ResourceCounter(mutator)  # counts without running the model
    low, high = 0.0, 1.0
    for _ in range(12):
        ratio = (low + high) / 2
        mutator.set_choices({unit.name: ratio for unit in units})
        if counter.active_macs() <= flops * counter.total_macs:
            low = ratio
        else:
            high = ratio
    if low == 0:
        least = counter.active_macs() / counter.total_macs
        raise ValueError(f"flops={flops} can't be reached: one head and one hidden unit a block leave {least:.3f}")
    return low


# --- what it is worth ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One net's figures."""

    name: str
    accuracy: float
    macs: int
    parameters: int
    heads: list[int]


def measure(name: str, net: nn.Module, data: L.LightningDataModule) -> Row:
    """Accuracy on the held-out images, and the cost of one, counted by torch on what really runs."""
    images, labels = held_out(data)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        net(images[:1])
    return Row(
        name=name,
        accuracy=int((predictions(net, images) == labels).sum()) / len(labels),
        macs=counter.get_total_flops() // 2,
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        heads=[block.attention.num_heads for block in net.blocks],
    )


def held_out(data: L.LightningDataModule) -> tuple[Tensor, Tensor]:
    """All held-out images and their labels."""
    images, labels = zip(*data.test_dataloader(), strict=True)
    return torch.cat(images), torch.cat(labels)


def predictions(net: nn.Module, images: Tensor) -> Tensor:
    """The class of each image."""
    with torch.inference_mode():
        return net(images).argmax(1)


def table(rows: Sequence[Row]) -> str:
    """The rows as plain text."""
    lines = [f"{'':24s}accuracy        MACs  parameters  heads of each block"]
    for row in rows:
        heads = " ".join(map(str, row.heads))
        lines.append(f"{row.name:24s}{row.accuracy:8.2%}  {row.macs:10,}  {row.parameters:10,}  {heads}")
    return "\n".join(lines)


# --- loading it elsewhere --------------------------------------------------------------------------------------------

ELSEWHERE = """
import sys
sys.modules["lightning_channels"] = None  # as if it weren't installed: to import it is an error
import torch
net, images = torch.load(sys.argv[1], weights_only=False), torch.load(sys.argv[2])
with torch.inference_mode():
    torch.save(net(images).argmax(1), sys.argv[3])
"""


def predictions_elsewhere(saved: Path, images: Tensor) -> Tensor:
    """What a saved net predicts in a process without lightning_channels; it needs the net's own class alone."""
    inputs, outputs = saved.with_name("images.pt"), saved.with_name("predictions.pt")
    torch.save(images, inputs)
    subprocess.run([sys.executable, "-W", "ignore", "-c", ELSEWHERE, saved, inputs, outputs], cwd=EXAMPLES, check=True)
    return torch.load(outputs)


def run(config: DictConfig, output: Path) -> list[Row]:
    """Train, prune, fine-tune, save, and load again.

    Args:
        config: conf/prune_vit.yaml, composed.
        output: Folder for the pruned net.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    L.seed_everything(config.seed, workers=True)
    data, net = instantiate(config.data), instantiate(config.model)

    prune(net, config)  # a share of the FLOPs that can't be reached is an error now, not after the training
    print(f"training, {config.trainer.max_epochs} epochs")
    fit(net, data, config)
    rows = [measure("unpruned", net, data)]

    small = prune(net, config)
    rows.append(measure("pruned", small, data))

    # The export is what is trained on: a plain net that needs no callback, computes with the kept channels alone, and
    # holds which they are. (The callback's fixed choices say how many, and keep the first ones.)
    print(f"fine-tuning the pruned net, {config.trainer.max_epochs} epochs")
    fit(small, data, config)
    rows.append(measure("pruned and fine-tuned", small, data))

    saved = output.resolve() / "pruned.pt"
    torch.save(small, saved)
    images, _ = held_out(data)
    same = int((predictions_elsewhere(saved, images) == predictions(small, images)).sum())
    print(f"\n{table(rows)}\n\nwritten to {saved}")
    print(f"loaded without lightning_channels: {same} of {len(images)} predictions are the same")
    return rows


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="prune_vit")
def main(config: DictConfig) -> None:
    run(config, Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
