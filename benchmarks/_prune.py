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
from torch import nn

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
    """Prune to each target, measure, train on, measure again, and write each model to a file."""
    tool = importlib.import_module(f"benchmarks._prune_{side}")
    full = macs(task.model(), task.example())
    rows, begin = [], time.perf_counter()
    for target, model in zip(
        arguments.targets, tool.prune(task, arguments.criterion, arguments.targets, arguments.seed), strict=True
    ):
        took = time.perf_counter() - begin
        row = _described(model, task)
        if row["macs"] > target * full:
            raise RuntimeError(f"{side} leaves {row['macs']} of {full} multiply-adds, more than {target:g}")
        fit(model, task.train, network.tuning, arguments.seed)
        torch.save(model, _model_file(arguments.folder, side, target))
        rows.append({"target": target, "before": row.pop("accuracy"), "after": accuracy(model, task.test), **row})
        rows[-1]["pruned_s"] = round(took, 2)
        begin = time.perf_counter()
    return {"targets": rows}


def _described(model: nn.Module, task: Task) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "accuracy": accuracy(model, task.test),
        "macs": macs(model, task.example()),
        "parameters": parameters,
    }


def _model_file(folder: Path, side: str, target: float) -> Path:
    return folder / f"{side}-{target:g}.pt"


def compare_speed(task: Task, folder: Path, targets: Sequence[float], runs: int = 30) -> dict[str, Any]:
    """Median milliseconds of both sides' models on a batch, which take turns in one process.

    It is the processor's time: a single thread's, and of no other process that keeps it waiting.
    """
    batch, rows = task.test[0][:64], []
    for target in targets:
        models = [
            torch.load(_model_file(folder, side, target), weights_only=False).eval() for side in ("ours", "theirs")
        ]
        times: list[list[float]] = [[], []]
        with torch.inference_mode():
            for run in range(runs + 3):
                for which in (0, 1) if run % 2 else (1, 0):
                    begin = time.process_time()
                    models[which](batch)
                    times[which].append(1000 * (time.process_time() - begin))
        ours, theirs = (round(statistics.median(own[3:]), 4) for own in times)
        rows.append({"target": target, "ours": ours, "theirs": theirs})
    return {"targets": rows}


def main() -> None:
    """Do one part, and write what was measured to a file."""
    parser = argparse.ArgumentParser(description="train, prune, or compare the speed of what was pruned")
    add = parser.add_argument
    add("part", choices=("train", "ours", "theirs", "speed"))
    add("result", type=Path, help="file for the JSON object")
    add("--network", choices=NETWORKS, required=True)
    add("--task", type=Path, required=True, help="file of the trained network and its data")
    add("--seed", type=int, default=0)
    add("--criterion", default="l1")
    add("--targets", type=float, nargs="+", default=[0.5, 0.25], help="from the largest down")
    add("--folder", type=Path, help="for the pruned models")
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
            row = compare_speed(task, arguments.folder, arguments.targets)
        else:
            row = prune(arguments.part, task, network, arguments)
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
