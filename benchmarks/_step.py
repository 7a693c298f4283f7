"""One measurement of training steps of one model in a process of its own: ``python -m benchmarks._step --help``."""

from __future__ import annotations

import argparse
import copy
import gc
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_channels import ChannelMutator, export_subnet
from lightning_channels.samplers import Choices

__all__ = ["Measurement", "Steps", "Work", "pairs", "timed"]

Work = Callable[[], Any]

_MOST_PAIRS = 999


class Classifier(LightningModule):
    """What a user would train."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self.net)


def sgd(model: nn.Module) -> torch.optim.SGD:
    """An optimizer with a state, that moves so little that the weights stay sound."""
    return torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)


class Steps:
    """A model before and after it is prepared, and what both are trained with.

    Args:
        name: Of torchvision.
        size: Of the input images.
        batch: How many of them.
        seed: Of the model and the batch.
    """

    def __init__(self, name: str, size: int, batch: int, seed: int) -> None:
        import torchvision

        torch.manual_seed(seed)
        options = {"image_size": size} if name.startswith("vit_") else {}
        self.plain = torchvision.models.get_model(name, weights=None, **options).train()
        self.module = Classifier(copy.deepcopy(self.plain)).train()
        self.images, self.labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
        self.mutator = ChannelMutator()
        self.mutator.prepare_from_supernet(self.module.net, self.images[:1])

    def full(self) -> Choices:
        """The whole width."""
        return {unit.name: unit.max_choice for unit in self.mutator.mutable_units}

    def half(self) -> Choices:
        """The widths closest to a half."""
        return {unit.name: unit.check_choice(max(1, unit.num_channels // 2)) for unit in self.mutator.mutable_units}

    def twin(self, choices: Choices) -> nn.Module:
        """A plain model of these widths."""
        return export_subnet(self.module.net, choices)

    def step(self, model: nn.Module) -> Work:
        """Forward, loss and backward."""
        return lambda: F.cross_entropy(model(self.images), self.labels).backward()


Measurement = Callable[[Steps, argparse.Namespace], dict[str, Any]]


def pairs(
    own: Work, theirs: Work, models: Sequence[nn.Module], arguments: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of ours and theirs, which take turns, by each clock; the first two of each only warm up.

    At least ``arguments.repeat`` pairs, and as many as ``arguments.seconds`` hold.
    """
    found: dict[str, list[tuple[float, float]]] = {"wall": [], "cpu": []}
    gc.freeze()  # what is here stays: collections between the steps needn't look at it
    begin = time.perf_counter()
    for turn in range(-2, max(_MOST_PAIRS, arguments.repeat)):
        if turn >= arguments.repeat and time.perf_counter() - begin > arguments.seconds:
            break
        took = {}
        for work in (own, theirs) if turn % 2 else (theirs, own):
            for model in models:
                model.zero_grad(set_to_none=True)  # as Lightning does
            gc.collect()
            took[work] = timed(work)
        for clock, values in found.items() if turn >= 0 else ():
            values.append((took[own][clock], took[theirs][clock]))
    gc.unfreeze()
    return found


def timed(work: Work) -> dict[str, float]:
    """Seconds by the clock on the wall, and of computing."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main() -> None:
    """Measure, and write the result to a file."""
    from benchmarks import _sandwich_step, _single_step

    measurements: dict[str, Measurement] = {**_sandwich_step.MEASUREMENTS, **_single_step.MEASUREMENTS}
    parser = argparse.ArgumentParser(description="measure training steps of one torchvision model in this process")
    parser.add_argument("measurement", choices=measurements)
    parser.add_argument("model")
    parser.add_argument("result", type=Path, help="file for the JSON object")
    for name, default in (("size", 128), ("batch", 8), ("n-random", 2), ("seed", 0), ("repeat", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seconds", type=float, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    try:
        steps = Steps(arguments.model, arguments.size, arguments.batch, arguments.seed)
        row = measurements[arguments.measurement](steps, arguments)
    except Exception as error:
        row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
