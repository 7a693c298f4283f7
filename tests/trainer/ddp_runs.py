"""Runs in two processes with DDP; called by the tests as ``python -m tests.trainer.ddp_runs FOLDER``.

Each rank leaves a file of what its runs were.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_channels.dynamic_ops import is_dynamic
from tests.callbacks.nets import Classifier
from tests.trainer.twins import run

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "static graph": {"strategy": {"static_graph": True, "gradient_as_bucket_view": True}},
    "accumulated": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.05, "precision": "bf16-mixed"},
    "ema": {"callbacks": lambda: [EMAWeightAveraging(decay=0.5)]},
    "swa": {"callbacks": lambda: [StochasticWeightAveraging(0.02, swa_epoch_start=1)], "max_epochs": 3},
}


def options_of(case: dict[str, Any]) -> dict[str, Any]:
    strategy = DDPStrategy(process_group_backend="gloo", **case.get("strategy", {}))
    return {"max_epochs": 1, **case, "strategy": strategy, "devices": 2}


def synchronised(folder: Path, sampler: str | None) -> dict[str, Any]:
    """The norms of a run with ``sync_batchnorm=True``, up to where torch refuses them on the CPU."""
    modules: list[Classifier] = []

    def build() -> Classifier:
        modules.append(Classifier())
        return modules[-1]

    error = ""
    try:
        run(folder, sampler, build=build, sync_batchnorm=True, **options_of({}))
    except ValueError as raised:
        error = str(raised)
    norms = [module for module in modules[0].modules() if isinstance(module, nn.SyncBatchNorm)]
    return {"norms": [(is_dynamic(norm), norm.num_features) for norm in norms], "error": error}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        runs = {sampler: run(folder, sampler, **options_of(case)) for sampler in (None, "max", "random")}
        found[name] = {str(sampler): done.facts() for sampler, done in runs.items()}
        found[name]["choices"] = runs["random"].choices
    keep = {"monitor": "val_loss", "save_top_k": 1, "save_last": True}
    run(folder, "random", callbacks=lambda: [ModelCheckpoint(folder / "kept", **keep)], **options_of({}))
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    found["synchronised"] = [synchronised(folder, sampler) for sampler in (None, "random")]
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main(Path(sys.argv[1]))
