"""This library's side of ``prune.py``: the same criterion, one shot, and the exported model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from benchmarks._prune_task import Task, gradients
from lightning_channels import ChannelMutator
from lightning_channels.pruning import Pruner

__all__ = ["prune"]

_NEED_GRADIENTS = ("taylor",)


def prune(task: Task, criterion: str, targets: Sequence[float], seed: int) -> Iterator[nn.Module]:
    """A pruned model for each target, in eval mode; see :func:`benchmarks._prune_theirs.prune`."""
    for target in targets:
        model = task.model()
        mutator = ChannelMutator()
        mutator.prepare_from_supernet(model, task.example())
        torch.manual_seed(seed)
        pruner = Pruner(_config(criterion, seed), {"macs": target})
        pruner.start(mutator, None)
        if criterion in _NEED_GRADIENTS:
            for _ in gradients(model, task.train, seed):
                pruner.after_backward()
        pruner.before_step(0)
        if not pruner.finished:
            raise RuntimeError(f"{criterion}: not at {target:g} of the multiply-adds after the one step")
        pruner.stop()
        model.zero_grad()
        yield mutator.export().eval()


def _config(criterion: str, seed: int) -> str | dict[str, object]:
    return {"type": criterion, "seed": seed} if criterion == "random" else criterion
