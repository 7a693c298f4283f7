"""Two processes that prune; called by the tests as ``python -m tests.callbacks.prune_ddp FOLDER``.

One run for each criterion, one to a latency on a simulated machine that is another one on each rank, and runs of what
isn't the same on all ranks, or can't be measured.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_channels import ChannelPruning
from tests.callbacks.ddp import Module, trainer
from tests.callbacks.pruned import Kept
from tests.resources.machine import simulate

SCHEDULE = {"type": "linear", "end_step": 12}
RUNS: dict[str, dict[str, Any]] = {
    "l1": {"criterion": "l1", "distillation": {}},
    "taylor": {"criterion": "taylor", "trainer": {"accumulate_grad_batches": 2}, "end_step": 6},
    "fisher": {"criterion": "fisher"},
    "latency": {"target": {"latency_ms": "40%"}, "pruning": {"latency": {"shares": [0.5], "random_choices": 2}}},
    "auto": {"criterion": "l1", "pruning": {"divisor": "auto"}, "target": {"flops": 0.5}},
}


def run(folder: Path, name: str) -> None:
    arguments = dict(RUNS[name])
    options = arguments.pop("trainer", {})
    schedule = {**SCHEDULE, "end_step": arguments.pop("end_step", SCHEDULE["end_step"])}
    module = Module()
    pruning = ChannelPruning(**{"target": {"flops": 0.4}, "schedule": schedule, **arguments})
    fitted = trainer(folder, pruning, watch := Kept(pruning), **options)
    fitted.fit(module)
    found = {"weights": module.state_dict(), "kept": watch.train, "finished": pruning.pruner.finished}
    found["reached"] = pruning.pruner.reached
    torch.save(found, folder / f"{name}-{fitted.global_rank}.pt")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    machine = ("AVX2", "AVX512")[rank]  # which decides about divisor="auto"
    torch.backends.cpu.get_cpu_capability = lambda: machine
    torch.cuda.is_available = lambda: False
    measured = simulate(overhead=1e-7 * (1 + rank))
    for name in RUNS:
        run(folder, name)
    (folder / f"measured{rank}.txt").write_text(str(len(measured)))
    draw = torch.Generator().manual_seed(rank)
    own = ChannelPruning(criterion=lambda unit: torch.rand(unit.num_channels, generator=draw), target={"flops": 0.4})
    elsewhere = ChannelPruning(target={"latency_ms": "50%"}, pruning={"latency": {"device": "cuda:7"}})
    refusals = []
    for refused in (own, elsewhere):
        try:
            trainer(folder, refused).fit(Module())
        except MisconfigurationException as error:
            refusals.append(str(error))
    (folder / f"refused{rank}.txt").write_text("\n".join(refusals))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
