"""Runs that prune, which the tests of pruning share."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Watch, trainer

LINEAR = {"type": "linear", "start_step": 2, "end_step": 8}


class BySignedGradients:
    """Scores by a running mean of gradients, so that it has something to lose between two steps."""

    def __init__(self) -> None:
        self.model: Any = None
        self.means: dict[str, Tensor] = {}

    @property
    def ready(self) -> bool:
        return bool(self.means)

    def start(self, model: Any, units: Any) -> None:
        self.model = model

    def after_backward(self) -> None:
        for name, parameter in self.model.named_parameters():
            if name.endswith("weight") and parameter.grad is not None:
                rows = parameter.grad.detach().flatten(1).sum(1) if parameter.dim() > 1 else parameter.grad.detach()
                self.means[name] = 0.5 * rows + 0.5 * self.means.get(name, rows)

    def __call__(self, unit: Any) -> Tensor:
        return self.means[f"{unit.output_related[0].name}.weight"].abs().double()

    def stop(self) -> None:
        self.model = None

    def state_dict(self) -> dict[str, Any]:
        return dict(self.means)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means = dict(state)


def pruning(**arguments: Any) -> ChannelPruning:
    """Half of the FLOPs in the first half of the training."""
    return ChannelPruning(**{"criterion": "l1", "target": {"flops": 0.5}, "schedule": "linear", **arguments})


def kept(found: ChannelPruning) -> dict[str, list[int]]:
    """Unit → the channels that are active."""
    return {unit.name: unit.mutable_channel.kept.tolist() for unit in found.mutator.mutable_units}


def share(found: ChannelPruning) -> float:
    """What is left of the FLOPs."""
    counter = found._counter
    assert counter is not None
    return counter.active_macs() / counter.total_macs


class Kept(Watch):
    """Writes down which channels are active, too."""

    def now(self) -> dict[str, Any]:
        return kept(self.pruning)


def fit(path: Any, module: L.LightningModule, data: Any, *callbacks: L.Callback, **kwargs: Any) -> Kept:
    """Train for three epochs; the first callback prunes."""
    watch = Kept(callbacks[0])
    fit_arguments = {name: kwargs.pop(name) for name in ("val_dataloaders", "ckpt_path") if name in kwargs}
    run = trainer(path, callbacks[0], watch, *callbacks[1:], **{"max_epochs": 3, **kwargs})
    run.fit(module, data, **fit_arguments)
    watch.trainer = run  # type: ignore[attr-defined]
    return watch
