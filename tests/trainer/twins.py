"""The same run with the callback and without: one shared way to make and to compare the two."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from lightning_channels import ChannelPruning, export_subnet
from lightning_channels.dynamic_ops import is_dynamic
from tests.callbacks.nets import WIDTHS, Classifier, Watch, loader, trainer

Act = Callable[[L.Trainer, L.LightningModule], Any]
Callbacks = Callable[[], Sequence[L.Callback]]


def fit(runner: L.Trainer, module: L.LightningModule) -> None:
    """What a run does unless a test says otherwise: train on shuffled batches, validate after each epoch."""
    runner.fit(module, loader(), loader(shuffle=False))


@dataclass
class Steps(L.Callback):
    """Writes down what each batch of training got and gave, and each number that is logged."""

    inputs: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    metrics: list[dict[str, float]] = field(default_factory=list)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        self.inputs.append(first.clone())
        if isinstance(outputs, dict) and "loss" in outputs:
            self.losses.append(outputs["loss"].detach().clone())
        self.metrics.append(_logged(trainer))


@dataclass
class Run:
    """A run that is over, and all that it leaves behind."""

    trainer: L.Trainer
    module: L.LightningModule
    pruning: ChannelPruning | None
    choices: list[dict[str, Any]]
    callbacks: Sequence[L.Callback]
    steps: Steps
    result: Any
    drawn: tuple[list[float], float]

    def facts(self) -> dict[str, Any]:
        """Everything that must be the same with the callback at full width and without it."""
        trainer = self.trainer
        return {
            "weights": self.module.state_dict(),
            "buffers": dict(self.module.named_buffers()),
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "inputs": self.steps.inputs,
            "losses": self.steps.losses,
            "metrics": [*self.steps.metrics, _logged(trainer)],
            "progress": (trainer.global_step, trainer.current_epoch),
            "result": self.result,
            "drawn": self.drawn,
        }


def run(
    path: Path,
    sampler: Any = None,
    *,
    build: Callable[[], L.LightningModule] = Classifier,
    act: Act = fit,
    callbacks: Callbacks = tuple,
    last: bool = False,
    plugins: Callable[[], Any] | None = None,
    pruning: dict[str, Any] | None = None,
    **options: Any,
) -> Run:
    """One run; all in it is random by one seed.

    Args:
        path: Where it may write.
        sampler: The callback's; None for a run without the callback.
        build: Makes the module.
        act: What is done with trainer and module.
        callbacks: Makes the other callbacks.
        last: Whether ours stands behind the others.
        plugins: Makes the trainer's plugins, which belong to one run.
        pruning: Further arguments of the callback.
        options: The trainer's.
    """
    L.seed_everything(1, verbose=False)
    module, others, steps = build(), callbacks(), Steps()
    own = None if sampler is None else ChannelPruning(sampler=sampler, **(pruning or {}))
    watches = [] if own is None else [Watch(own)]
    ours: list[L.Callback] = [] if own is None else [own]
    in_order = [*others, *ours] if last else [*ours, *others]
    if plugins is not None:
        options["plugins"] = plugins()
    runner = trainer(path, *in_order, *watches, steps, **{"max_epochs": 2, **options})
    result = act(runner, module)
    drawn = (torch.rand(3).tolist(), random.random())
    chosen = watches[0].train if watches else []
    return Run(runner, module, own, chosen, others, steps, result, drawn)


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Assert that nested values are equal, tensors bit for bit."""
    if isinstance(one, Tensor):
        assert isinstance(other, Tensor), where
        assert one.dtype == other.dtype, where
        assert torch.equal(one.nan_to_num(), other.nan_to_num()), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}/{index}")
    else:
        assert one == other, where


def assert_twins(path: Path, **options: Any) -> tuple[Run, Run]:
    """Assert that a run with the callback at full width is the run without it, bit for bit.

    Returns:
        Both runs: without, and with it.
    """
    plain = run(path / "plain", **options)
    ours = run(path / "ours", "max", **options)
    assert ours.pruning is not None
    assert ours.pruning.mutator.current_choices == WIDTHS
    assert_same(plain.facts(), ours.facts())
    return plain, ours


def assert_random_works(path: Path, **options: Any) -> Run:
    """Assert that a run at random widths is a good one: other widths at each step, finite, and usable afterwards."""
    found = run(path / "random", "random", **options)
    assert found.pruning is not None
    assert len({tuple(choices.values()) for choices in found.choices}) > len(found.choices) // 2
    assert_usable(found.module, found.pruning)
    return found


def assert_usable(module: Any, pruning: ChannelPruning) -> None:
    """The module's net is dynamic and finite, stands at the widest, and narrow widths can be set and exported."""
    assert is_dynamic(module.net[0])
    assert is_dynamic(module.net[3])
    assert all(tensor.isfinite().all() for tensor in module.state_dict().values())
    mutator = pruning.mutator
    assert mutator.current_choices == WIDTHS
    mutator.set_choices({name: width // 2 for name, width in WIDTHS.items()})
    small = export_subnet(module.net)
    assert isinstance(small[0], nn.Conv2d)
    assert (small[0].out_channels, small[3].out_channels) == (4, 6)
    x = torch.randn(2, 3, 6, 6, dtype=module.net[0].weight.dtype)
    with torch.no_grad():
        torch.testing.assert_close(small.eval()(x), module.net.eval()(x))
    mutator.set_choices(WIDTHS)


def _logged(trainer: Any) -> dict[str, float]:
    metrics = {**trainer.callback_metrics, **trainer.logged_metrics}
    return {name: float(value) for name, value in metrics.items() if not name.startswith("channels/")}
