"""What ``prune.py`` prunes: two small networks, their data, and the one training loop that all sides use."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))  # the digits' network is that of the examples

__all__ = ["NETWORKS", "Network", "Recipe", "Split", "Task", "accuracy", "fit", "gradients", "macs"]

Split = tuple[Tensor, Tensor]
"""Images and labels."""

BATCH = 64


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum, whose rate rises over the first tenth of the steps and then falls to 0.

    Attributes:
        steps: Of the optimizer.
        rate: At its peak.
    """

    steps: int
    rate: float


@dataclass(frozen=True, slots=True)
class Network:
    """A network with its data.

    Attributes:
        title: For the tables.
        training: How it is trained, from scratch.
        tuning: How it is trained on, once it is pruned.
    """

    title: str
    training: Recipe
    tuning: Recipe

    def quick(self) -> Network:
        """The same with next to no training: for trying out whether all runs."""
        return replace(self, training=replace(self.training, steps=6), tuning=replace(self.tuning, steps=2))


NETWORKS = {
    "digits": Network("A small ResNet on the digits", Recipe(460, 0.1), Recipe(70, 0.02)),
    "gratings": Network("torchvision's resnet18 on generated images of stripes", Recipe(140, 0.05), Recipe(50, 0.02)),
}


class Task:
    """A trained network of one seed, and the data that it was trained on, in a file that all sides start from.

    Args:
        name: Of the network.
        file: What :meth:`save` wrote.
    """

    def __init__(self, name: str, file: Path) -> None:
        saved = torch.load(file, weights_only=True)
        self.name = name
        self.train: Split = saved["train"]
        self.test: Split = saved["test"]
        self._state: dict[str, Tensor] = saved["state"]

    def model(self) -> nn.Module:
        """A fresh copy of the trained network, in eval mode."""
        model = build(self.name)
        model.load_state_dict(self._state)
        return model.eval()

    def example(self) -> Tensor:
        """An input to trace with."""
        return self.test[0][:1].clone()

    @staticmethod
    def save(name: str, file: Path, model: nn.Module, train: Split, test: Split) -> None:
        """Write what a task is made from."""
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state": model.state_dict(), "train": train, "test": test}, file)


def build(name: str) -> nn.Module:
    """The network with fresh weights from torch's generator."""
    if name == "digits":
        from slimmable.models import DigitsResNet

        return DigitsResNet([16, 32, 64])
    from torchvision.models import resnet18

    return resnet18(num_classes=10)


def data(name: str) -> tuple[Split, Split]:
    """What the network is trained on, and what is held out; the same for all seeds."""
    return digits() if name == "digits" else (gratings(3000, seed=0), gratings(1000, seed=1))


def digits() -> tuple[Split, Split]:
    """scikit-learn's digits as the example has them."""
    from slimmable.data import Digits

    module = Digits()
    module.setup()
    train, test = module.train_set[:], module.test_set[:]
    return (train[0], train[1]), (test[0], test[1])


def gratings(count: int, seed: int, size: int = 24) -> Split:
    """Coloured stripes under noise; the label is their direction, in ten steps of 18 degrees.

    Everything else is drawn: how fine the stripes are, where they begin, their contrast and their colour.
    """
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=draw)
    place = torch.arange(size) / size
    angle = labels * (math.pi / 10) + 0.05 * torch.randn(count, generator=draw)
    along = angle.cos()[:, None, None] * place[:, None] + angle.sin()[:, None, None] * place
    drawn = torch.rand(3, count, 1, 1, generator=draw)
    stripes = torch.sin(2 * math.pi * ((1.5 + 2 * drawn[0]) * along + drawn[1])) * (0.4 + 0.6 * drawn[2])
    colour = F.normalize(torch.randn(count, 3, 1, 1, generator=draw), dim=1)
    noise = 0.5 * torch.randn(count, 3, size, size, generator=draw)
    return stripes[:, None] * colour * 1.5 + noise, labels


def batches(split: Split, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in an order that the seed alone decides: epoch by epoch, the remainder of each left out."""
    draw = torch.Generator().manual_seed(seed)
    images, labels = split
    per_epoch = len(images) // BATCH
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(images), generator=draw)
        picked = order[step % per_epoch * BATCH :][:BATCH]
        yield images[picked], labels[picked]


def fit(model: nn.Module, split: Split, recipe: Recipe, seed: int) -> None:
    """Train a plain model, and leave it in eval mode."""
    optimizer = torch.optim.SGD(model.parameters(), recipe.rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    model.train()
    for step, (images, labels) in enumerate(batches(split, recipe.steps, seed)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * _share_of_peak((step + 1) / recipe.steps)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval()


def _share_of_peak(progress: float) -> float:
    return progress / 0.1 if progress < 0.1 else 0.5 + 0.5 * math.cos(math.pi * (progress - 0.1) / 0.9)


def gradients(model: nn.Module, split: Split, seed: int, count: int = 10) -> Iterator[int]:
    """Backward passes in eval mode, whose gradients add up; gives the number of each once it is done."""
    model.eval()
    model.zero_grad()
    for number, (images, labels) in enumerate(batches(split, count, seed)):
        F.cross_entropy(model(images), labels).backward()
        yield number


@torch.inference_mode()
def accuracy(model: nn.Module, split: Split) -> float:
    """Share of the images whose label is found, in eval mode."""
    chunks = zip(*(part.split(250) for part in split), strict=True)
    right = sum(int((model.eval()(images).argmax(1) == labels).sum()) for images, labels in chunks)
    return right / len(split[1])


def macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of one image, counted by torch on the model itself."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()(example)
    return counter.get_total_flops() // 2
