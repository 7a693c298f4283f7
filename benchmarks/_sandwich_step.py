"""A sandwich step against the same passes on plain models: what is measured, and how it is shown."""

from __future__ import annotations

import argparse
import statistics
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import nn

from benchmarks._memory import peak_of
from benchmarks._step import Measurement, Steps, Work, pairs
from lightning_channels.callbacks._passes import Passes
from lightning_channels.distillation import Distillation, kl_divergence
from lightning_channels.samplers import SandwichSampler, passes_of

__all__ = ["MEASUREMENTS", "Sandwich"]

RATIOS = (0.25, 0.5, 0.75, 1.0)

Memory = Literal["fast", "lean"]


class Sandwich:
    """The steps that are compared; where its block ends, the module is as it was.

    Args:
        steps: The model.
        n_random: Random passes.
        seed: Of the widths.
    """

    def __init__(self, steps: Steps, n_random: int, seed: int) -> None:
        self.steps = steps
        sampler = SandwichSampler(n_random, list(RATIOS), shared=True)
        self.choices = passes_of(sampler, steps.mutator, seed=seed, epoch=0, batch_idx=0)
        steps.mutator.set_choices(self.choices[0])
        self._passes: Passes | None = None

    def __enter__(self) -> Sandwich:
        return self

    def __exit__(self, *_: object) -> None:
        if self._passes is not None:
            self._passes.take_off()
        self.steps.mutator.set_choices(self.steps.full())

    def widths(self) -> list[float]:
        """The share of its channels that each pass has."""
        units = self.steps.mutator.name2unit
        shares = [[number / units[name].num_channels for name, number in own.items()] for own in self.choices]
        return [statistics.median(own) for own in shares]

    def own(self, memory: Memory) -> Work:
        """Our step. What the trainer does in it, to call the step and its backward pass, is all that stands in here."""
        steps = self.steps
        strategy = SimpleNamespace(
            training_step=lambda *args: steps.module.training_step(*args), backward=lambda loss, _: loss.backward()
        )
        trainer = cast(Trainer, SimpleNamespace(strategy=strategy, accumulate_grad_batches=1))
        passes = self._passes = Passes(
            trainer, steps.module, steps.mutator, Distillation(), memory, False, lambda: None
        )

        def step() -> None:
            steps.mutator.set_choices(self.choices[0])
            passes.begin(self.choices)
            strategy.backward(strategy.training_step((steps.images, steps.labels), 0), None)
            passes.after_backward()

        return step

    def twins(self) -> list[nn.Module]:
        """A plain model for each pass, with parameters of its own."""
        return [self.steps.twin(choices) for choices in self.choices]

    def by_hand(self, memory: Memory, twins: list[nn.Module]) -> Work:
        """The same passes, losses and backward passes on plain models."""
        images, labels = self.steps.images, self.steps.labels
        widest, *narrow = twins

        def fast() -> None:
            logits = widest(images)
            loss = F.cross_entropy(logits, labels)
            for twin in narrow:
                loss = loss + kl_divergence(twin(images), logits.detach())
            loss.backward()

        def lean() -> None:
            logits = widest(images)
            F.cross_entropy(logits, labels).backward()
            logits = logits.detach()
            for twin in narrow:
                kl_divergence(twin(images), logits).backward()

        return fast if memory == "fast" else lean


def _sandwich(steps: Steps, arguments: argparse.Namespace) -> Sandwich:
    return Sandwich(steps, arguments.n_random, arguments.seed)


def _time(memory: Memory) -> Measurement:
    def measure(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
        with _sandwich(steps, arguments) as sandwich:
            twins = sandwich.twins()
            own, theirs = sandwich.own(memory), sandwich.by_hand(memory, twins)
            found = pairs(own, theirs, [steps.module, *twins], arguments)
            return {"widths": sandwich.widths(), "pairs": found}

    return measure


def _own_peak(memory: Memory) -> Measurement:
    def measure(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
        with _sandwich(steps, arguments) as sandwich:
            return _peak(steps, sandwich.own(memory), steps.module)

    return measure


def _twins_peak(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    with _sandwich(steps, arguments) as sandwich:
        return _peak(steps, sandwich.by_hand("fast", sandwich.twins()))


def _pass_peak(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    return _peak(steps, steps.step(steps.plain))


def _peak(steps: Steps, work: Work, model: nn.Module | None = None) -> dict[str, Any]:
    """How far memory rises in a step: above its gradients, and for ours above none as well, as after zero_grad()."""
    for _ in range(2):  # gradients are allocated then, and whatever else stays
        work()
    sizes = [parameter.numel() * parameter.element_size() for parameter in steps.plain.parameters()]
    row = {"peak": peak_of(work)[1], "gradients": sum(sizes)}
    if model is not None:
        model.zero_grad(set_to_none=True)
        row["from_none"] = peak_of(work)[1]
    return row


MEASUREMENTS: dict[str, Measurement] = {
    "fast": _time("fast"),
    "lean": _time("lean"),
    "peak-fast": _own_peak("fast"),
    "peak-twins": _twins_peak,
    "peak-lean": _own_peak("lean"),
    "peak-pass": _pass_peak,
}
"""Pairs of times, ours and the plain one's, and peaks of memory."""
