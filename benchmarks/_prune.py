"""One part of ``prune.py`` in a process of its own: ``python -m benchmarks._prune --help``."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._prune_task import NETWORKS, Network, Task, accuracy, build, data, fit, macs

__all__ = ["compare_speed", "prune", "train"]


def train(name: str, network: Network, seed: int, file: Path) -> dict[str, Any]:
    """Train a network from scratch, and write the file that both sides start from."""
    torch.manual_seed(seed)
    model = build(name)
    train_split, test_split = data(name)
    fit(model, train_split, network.training, seed)
    Task.save(name, file, model, train_split, test_split)
    return _described(model, Task(name, file))


def prune(side: str, task: Task, network: Network, arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune by each criterion to each target, measure, train on, measure again, and write each model to a file."""
    tool = importlib.import_module(f"benchmarks._prune_{side}")
    full = macs(task.model(), task.example())
    found: dict[str, Any] = {}
    for criterion in arguments.criteria:
        more = {"steps": True} if arguments.steps and side == "theirs" else {}
        models = tool.prune(task, criterion, arguments.targets, arguments.seed, **more)
        for target, model in zip(arguments.targets, models, strict=True):
            row = {"target": target, **_described(model, task)}
            if row["macs"] > target * full:
                raise RuntimeError(f"{side}, {criterion}: {row['macs']} of {full} multiply-adds, more than {target:g}")
            fit(model, task.train, network.tuning, arguments.seed)
            torch.save(model, _model_file(arguments.folder, side, criterion, target))
            row |= {"before": row.pop("accuracy"), "after": accuracy(model, task.test)}
            found.setdefault(criterion, []).append(row)
    return found


def _described(model: nn.Module, task: Task) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "accuracy": accuracy(model, task.test),
        "macs": macs(model, task.example()),
        "parameters": parameters,
    }


def _model_file(folder: Path, side: str, criterion: str, target: float) -> Path:
    return folder / f"{side}-{criterion}-{target:g}.pt"


def compare_speed(task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median milliseconds of both sides' models on a batch, by criterion and target."""
    batch = task.test[0][:64]
    found: dict[str, Any] = {}
    for criterion in arguments.criteria:
        for target in arguments.targets:
            files = [_model_file(arguments.folder, side, criterion, target) for side in ("ours", "theirs")]
            models = [torch.load(file, weights_only=False).eval() for file in files]
            ours, theirs = _by_turns(models, batch)
            found.setdefault(criterion, []).append({"ours": ours, "theirs": theirs})
    return found


@torch.inference_mode()
def _by_turns(models: Sequence[nn.Module], batch: Tensor, runs: int = 30) -> list[float]:
    """Median milliseconds of models that take turns.

    It is the processor's time: that of the one thread, and of no other process that keeps it waiting.
    """
    times: list[list[float]] = [[] for _ in models]
    for run in range(runs + 3):
        order = list(enumerate(models))
        for which, model in order if run % 2 else reversed(order):
            begin = time.process_time()
            model(batch)
            times[which].append(1000 * (time.process_time() - begin))
    return [round(statistics.median(own[3:]), 4) for own in times]


def main() -> None:
    """Do one part, and write what was measured to a file."""
    parser = argparse.ArgumentParser(description="train, prune, or compare the speed of what was pruned")
    add = parser.add_argument
    add("part", choices=("train", "ours", "theirs", "speed"))
    add("result", type=Path, help="file for the JSON object")
    add("--network", choices=NETWORKS, required=True)
    add("--task", type=Path, required=True, help="file of the trained network and its data")
    add("--seed", type=int, default=0)
    add("--criteria", nargs="+", default=["l1"])
    add("--targets", type=float, nargs="+", default=[0.5, 0.25], help="from the largest down")
    add("--folder", type=Path, help="for the pruned models")
    add("--steps", action="store_true", help="let Torch-Pruning prune in small steps")
    add("--quick", action="store_true", help="next to no training")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    network = NETWORKS[arguments.network].quick() if arguments.quick else NETWORKS[arguments.network]
    if arguments.part == "train":
        row = train(arguments.network, network, arguments.seed, arguments.task)
    else:
        task = Task(arguments.network, arguments.task)
        if arguments.part == "speed":
            row = compare_speed(task, arguments)
        else:
            row = prune(arguments.part, task, network, arguments)
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
