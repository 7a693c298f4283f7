"""Runs whose strategy starts processes of its own; called as ``python -m tests.trainer.spawn_runs FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from lightning_channels import ChannelMutator
from lightning_channels.dynamic_ops import is_dynamic
from tests.callbacks.nets import Classifier, images, loader
from tests.trainer.test_averaging import SLIMMABLE
from tests.trainer.twins import Run, run


def options(method: str) -> dict[str, Any]:
    strategy = DDPStrategy(process_group_backend="gloo", start_method=method)  # type: ignore[arg-type]
    return {"strategy": strategy, "devices": 2, "max_epochs": 1}


def prepared() -> Classifier:
    module = Classifier()
    ChannelMutator().prepare_from_supernet(module, images().tensors[0][:2])
    return module


def facts(done: Run) -> dict[str, Any]:
    """What the process that called ``fit`` has of it."""
    net: Any = done.module.net
    return {
        "weights": done.module.state_dict(),
        "metrics": {name: value for name, value in done.trainer.callback_metrics.items() if "channels" not in name},
        "dynamic": [is_dynamic(net[0]), is_dynamic(net[3])],
        "widths": (net[0].out_channels, net[3].out_channels),
    }


def refusal(done: Run) -> str:
    assert done.pruning is not None
    try:
        _ = done.pruning.mutator
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def slimmable(folder: Path) -> str:
    try:
        run(folder, "random", pruning={"mutator": SLIMMABLE}, **options("fork"))
    except Exception as error:  # what comes out of another process is of torch's own type
        return str(error)
    return ""


def tested(done: Run) -> Any:
    """With the same trainer, again in processes of its own."""
    return done.trainer.test(done.module, loader(shuffle=False), verbose=False)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    keep = {"callbacks": lambda: [ModelCheckpoint(folder / "kept", filename="spawned")]}
    runs = {
        "random": run(folder, "random", **keep, **options("fork")),
        "prepared": run(folder, "random", build=prepared, **options("spawn")),
    }
    found = {name: facts(done) for name, done in runs.items()}
    found["tested"] = tested(runs["random"])
    found["mutator"] = refusal(runs["random"])
    found["slimmable"] = slimmable(folder)
    torch.save(found, folder / "found.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
