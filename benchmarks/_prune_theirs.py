"""Torch-Pruning's side of ``prune.py``: global pruning in small steps, until the model is as cheap as is asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from benchmarks._prune_task import Task, gradients, macs

__all__ = ["IMPORTANCES", "prune"]

STEPS = 200
"""From the whole model to one channel a layer; each takes half a percent of the channels at most."""

IMPORTANCES: dict[str, Callable[[], Any]] = {
    "l1": lambda: tp.importance.MagnitudeImportance(p=1),
    "l2": lambda: tp.importance.MagnitudeImportance(p=2),
    "bn_scale": tp.importance.BNScaleImportance,
    "taylor": tp.importance.TaylorImportance,
    "random": tp.importance.RandomImportance,
}
"""Criterion → what it calls the same; with its own defaults otherwise."""


def prune(task: Task, criterion: str, targets: Sequence[float], seed: int) -> Iterator[nn.Module]:
    """A pruned model for each target, in eval mode.

    Args:
        task: What is pruned.
        criterion: One of :data:`IMPORTANCES`.
        targets: Shares of the multiply-adds that are left at most; from the largest down, as one run passes them.
        seed: Decides the batches that gradients come from, and what is random.
    """
    model, example = task.model(), task.example()
    torch.manual_seed(seed)
    if criterion == "taylor":
        for _ in gradients(model, task.train, seed):
            pass
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=IMPORTANCES[criterion](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[_last(model)],
    )
    full = macs(model, example)
    for target in targets:
        for _ in range(STEPS):
            if macs(model, example) <= target * full:
                break
            pruner.step()
        yield copy.deepcopy(model)


def _last(model: nn.Module) -> nn.Module:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
