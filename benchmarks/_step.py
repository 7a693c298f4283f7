"""One measurement of training steps of one model in a process of its own: ``python -m benchmarks._step --help``."""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from benchmarks._memory import peak_of
from lightning_channels import ChannelMutator, export_subnet
from lightning_channels.callbacks._passes import Passes
from lightning_channels.distillation import Distillation, kl_divergence
from lightning_channels.samplers import Choices, SandwichSampler, passes_of

__all__ = ["MEASUREMENTS"]

RATIOS = (0.25, 0.5, 0.75, 1.0)

Memory = Literal["fast", "lean"]
Work = Callable[[], Any]


class _Classifier(LightningModule):
    """What a user would train."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])


class Steps:
    """The steps of a model that are compared.

    Args:
        name: Of torchvision.
        size: Of the input images.
        batch: How many of them.
        n_random: Random passes of a sandwich.
        seed: Of the model, the batch and the widths.
    """

    def __init__(self, name: str, size: int, batch: int, n_random: int, seed: int) -> None:
        import torchvision

        torch.manual_seed(seed)
        self.plain = torchvision.models.get_model(name, weights=None).train()
        self.module = _Classifier(copy.deepcopy(self.plain)).train()
        self.images, self.labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
        self.mutator = ChannelMutator()
        self.mutator.prepare_from_supernet(self.module.net, self.images[:1])
        sampler = SandwichSampler(n_random, list(RATIOS), shared=True)
        self.choices = passes_of(sampler, self.mutator, seed=seed, epoch=0, batch_idx=0)
        self.mutator.set_choices(self.choices[0])
        self._passes: Passes | None = None

    def widths(self) -> list[float]:
        """The share of its channels that each pass has."""
        units = self.mutator.name2unit
        shares = [[number / units[name].num_channels for name, number in own.items()] for own in self.choices]
        return [statistics.median(own) for own in shares]

    def half(self) -> Choices:
        """The widths closest to a half."""
        return {unit.name: unit.check_choice(max(1, unit.num_channels // 2)) for unit in self.mutator.mutable_units}

    def twin(self, choices: Choices) -> nn.Module:
        """A plain model of these widths."""
        return export_subnet(self.module.net, choices)

    # --- a sandwich --------------------------------------------------------------------------------------------------

    def sandwich(self, memory: Memory) -> Work:
        """Our step. What the trainer does in it, to call the step and its backward pass, is all that stands in here."""
        strategy = SimpleNamespace(
            training_step=lambda *args: self.module.training_step(*args), backward=lambda loss, _: loss.backward()
        )
        trainer = cast(Trainer, SimpleNamespace(strategy=strategy, accumulate_grad_batches=1))
        if self._passes is not None:
            self._passes.take_off()
        passes = self._passes = Passes(trainer, self.module, self.mutator, Distillation(), memory, False, lambda: None)
        batch = (self.images, self.labels)

        def step() -> None:
            self.mutator.set_choices(self.choices[0])
            passes.begin(self.choices)
            strategy.backward(strategy.training_step(batch, 0), None)
            passes.after_backward()

        return step

    def twins(self) -> list[nn.Module]:
        """A plain model for each pass, with parameters of its own."""
        return [self.twin(choices) for choices in self.choices]

    def by_hand(self, memory: Memory, twins: list[nn.Module]) -> Work:
        """The same passes, losses and backward passes on plain models."""
        widest, *narrow = twins

        def fast() -> None:
            logits = widest(self.images)
            loss = F.cross_entropy(logits, self.labels)
            for twin in narrow:
                loss = loss + kl_divergence(twin(self.images), logits.detach())
            loss.backward()

        def lean() -> None:
            logits = widest(self.images)
            F.cross_entropy(logits, self.labels).backward()
            logits = logits.detach()
            for twin in narrow:
                kl_divergence(twin(self.images), logits).backward()

        return fast if memory == "fast" else lean

    # --- a single width ----------------------------------------------------------------------------------------------

    def single(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Work:
        """Forward, loss and backward, and the optimizer's step if there is one."""

        def step() -> None:
            F.cross_entropy(model(self.images), self.labels).backward()
            if optimizer is not None:
                optimizer.step()

        return step

    def trained(self, model: nn.Module) -> Work:
        """A whole step with SGD; it moves so little that the weights stay sound."""
        return self.single(model, torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9))


# --- what is measured
# -----------------------------------------------------------------------------------------------------------------


def _sandwich_time(steps: Steps, repeat: int, memory: Memory) -> dict[str, Any]:
    twins = steps.twins()
    own, theirs = steps.sandwich(memory), steps.by_hand(memory, twins)
    return {"widths": steps.widths(), "pairs": _pairs(own, theirs, [steps.module, *twins], repeat)}


def _fast(steps: Steps, repeat: int) -> dict[str, Any]:
    return _sandwich_time(steps, repeat, "fast")


def _lean(steps: Steps, repeat: int) -> dict[str, Any]:
    return _sandwich_time(steps, repeat, "lean")


def _full(steps: Steps, repeat: int) -> dict[str, Any]:
    models = [steps.module.net, steps.plain]
    return {"pairs": _pairs(steps.trained(models[0]), steps.trained(models[1]), models, repeat)}


def _half(steps: Steps, repeat: int) -> dict[str, Any]:
    half = steps.half()
    models = [steps.module.net, steps.twin(half)]
    steps.mutator.set_choices(half)
    return {"pairs": _pairs(steps.trained(models[0]), steps.trained(models[1]), models, repeat)}


def _draw(steps: Steps, repeat: int) -> dict[str, Any]:
    def draw() -> None:
        steps.mutator.set_choices(steps.mutator.sample_choices())

    return {"pairs": _pairs(draw, steps.trained(steps.plain), [steps.plain], repeat)}


def _pairs(own: Work, theirs: Work, models: list[nn.Module], repeat: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of ours and theirs, which take turns, by each clock; the first two of each only warm up."""
    pairs: dict[str, list[tuple[float, float]]] = {"wall": [], "cpu": []}
    for turn in range(-2, repeat):
        took = {}
        for work in (own, theirs) if turn % 2 else (theirs, own):
            for model in models:
                model.zero_grad(set_to_none=True)  # as Lightning does
            gc.collect()
            took[work] = _timed(work)
        for clock, values in pairs.items() if turn >= 0 else ():
            values.append((took[own][clock], took[theirs][clock]))
    return pairs


def _timed(work: Work) -> dict[str, float]:
    """Seconds by the clock on the wall, and of computing."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _peak_fast(steps: Steps, repeat: int) -> dict[str, Any]:
    return _peak(steps, steps.sandwich("fast"), steps.module)


def _peak_twins(steps: Steps, repeat: int) -> dict[str, Any]:
    return _peak(steps, steps.by_hand("fast", steps.twins()))


def _peak_lean(steps: Steps, repeat: int) -> dict[str, Any]:
    return _peak(steps, steps.sandwich("lean"), steps.module)


def _peak_pass(steps: Steps, repeat: int) -> dict[str, Any]:
    return _peak(steps, steps.single(steps.plain))


def _peak(steps: Steps, work: Work, model: nn.Module | None = None) -> dict[str, Any]:
    """How far memory rises in a step: above its gradients, and for ours above none as well, as after zero_grad()."""
    for _ in range(2):  # gradients are allocated then, and whatever else stays
        work()
    row = {"peak": peak_of(work)[1], "gradients": _bytes(steps.plain)}
    if model is not None:
        model.zero_grad(set_to_none=True)
        row["from_none"] = peak_of(work)[1]
    return row


def _bytes(model: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


MEASUREMENTS: dict[str, Callable[[Steps, int], dict[str, Any]]] = {
    "fast": _fast,
    "lean": _lean,
    "full": _full,
    "half": _half,
    "draw": _draw,
    "peak-fast": _peak_fast,
    "peak-twins": _peak_twins,
    "peak-lean": _peak_lean,
    "peak-pass": _peak_pass,
}
"""Pairs of times, ours and the plain one's, and peaks of memory."""


def main() -> None:
    """Measure, and write the result to a file."""
    parser = argparse.ArgumentParser(description="measure training steps of one torchvision model in this process")
    parser.add_argument("measurement", choices=MEASUREMENTS)
    parser.add_argument("model")
    parser.add_argument("result", type=Path, help="file for the JSON object")
    for name, default in (("size", 128), ("batch", 8), ("n-random", 2), ("seed", 0), ("repeat", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    try:
        steps = Steps(arguments.model, arguments.size, arguments.batch, arguments.n_random, arguments.seed)
        row = MEASUREMENTS[arguments.measurement](steps, arguments.repeat)
    except Exception as error:
        row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
