"""Torch-Pruning's side of ``prune.py``: global pruning, at once or in small steps, to what the model may cost."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from benchmarks._prune_task import Task, gradients, macs

__all__ = ["IMPORTANCES", "prune"]

STEPS = 200
"""From the whole model to one channel a layer; each takes half a percent of the channels at most."""

HALVINGS = 10
"""Of the interval in which the ratio for a target is searched: to a thousandth."""

IMPORTANCES: dict[str, Callable[[], Any]] = {
    "l1": lambda: tp.importance.MagnitudeImportance(p=1),
    "l2": lambda: tp.importance.MagnitudeImportance(p=2),
    "bn_scale": tp.importance.BNScaleImportance,
    "taylor": tp.importance.TaylorImportance,
    "random": tp.importance.RandomImportance,
}
"""Criterion → what it calls the same; with its own defaults otherwise."""


def prune(task: Task, criterion: str, targets: Sequence[float], seed: int, steps: bool = False) -> Iterator[nn.Module]:
    """A pruned model for each target, in eval mode.

    Args:
        task: What is pruned.
        criterion: One of :data:`IMPORTANCES`.
        targets: Shares of the multiply-adds that are left at most; from the largest down, as one run passes them.
        seed: Decides the batches that gradients come from, and what is random.
        steps: Whether to prune in small steps, scoring anew what is left before each; else at once, from the scores of
            the whole model, at the ratio that leaves most.
    """
    yield from (_in_steps if steps else _at_once)(_Start(task, criterion, seed), targets)


class _Start:
    """The trained model, with gradients where the criterion needs them, as often as it is asked for."""

    def __init__(self, task: Task, criterion: str, seed: int) -> None:
        self._task, self._criterion, self._seed = task, criterion, seed
        self.example = task.example()
        self._gradients: dict[str, Tensor | None] = {}
        if criterion == "taylor":
            model = task.model()
            for _ in gradients(model, task.train, seed):
                pass
            self._gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        self.most = macs(task.model(), self.example)

    def pruner(self, ratio: float, steps: int) -> tuple[nn.Module, Any]:
        """A fresh model and what prunes it, globally."""
        model = self._task.model()
        for name, parameter in model.named_parameters():
            found = self._gradients.get(name)
            parameter.grad = None if found is None else found.clone()
        torch.manual_seed(self._seed)
        importance = IMPORTANCES[self._criterion]()
        return model, tp.pruner.BasePruner(
            model,
            self.example,
            importance=importance,
            global_pruning=True,
            pruning_ratio=ratio,
            iterative_steps=steps,
            ignored_layers=[_last(model)],
        )


def _in_steps(start: _Start, targets: Sequence[float]) -> Iterator[nn.Module]:
    model, pruner = start.pruner(1.0, STEPS)
    for target in targets:
        for _ in range(STEPS):
            if macs(model, start.example) <= target * start.most:
                break
            pruner.step()
        yield copy.deepcopy(model)


def _at_once(start: _Start, targets: Sequence[float]) -> Iterator[nn.Module]:
    for target in targets:
        low, high, found = 0.0, 1.0, None
        for _ in range(HALVINGS):
            ratio = (low + high) / 2
            model, pruner = start.pruner(ratio, 1)
            pruner.step()
            if macs(model, start.example) <= target * start.most:
                high, found = ratio, model
            else:
                low = ratio
        if found is None:
            raise RuntimeError(f"no ratio leaves {target:g} of the multiply-adds")
        found.zero_grad()
        yield found


def _last(model: nn.Module) -> nn.Module:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
