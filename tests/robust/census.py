"""Counts what is alive in a process of its own; called by the tests as ``python -m tests.robust.census FOLDER``.

Each configuration is trained once before anything is counted, so that what is cached for good is there.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn.parameter import Buffer, Parameter
from torch.utils.data import DataLoader, TensorDataset

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, images, trainer

RUNS: dict[str, dict[str, Any]] = {
    "random": {},
    "one shot": {"unit": "OneShotMutableChannelUnit", "update_inactive": False},
    "sandwich": {"sampler": "sandwich"},
    "lean": {"sampler": "sandwich", "memory": "lean"},
}


class Census(L.Callback):
    """Counts what is alive after some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.found: list[dict[str, int]] = []

    def on_train_batch_end(self, run: Any, *_: Any) -> None:
        if run.global_step in self.steps:
            gc.collect()
            things = gc.get_objects()
            tensors = [thing for thing in things if type(thing) in (Tensor, Parameter, Buffer)]
            # views of the present widths share one
            storages = [tensor.untyped_storage() for tensor in tensors]
            size = sum({storage._cdata: storage.nbytes() for storage in storages}.values())
            self.found.append({"objects": len(things), "tensors": len(tensors), "bytes": size})


def data(steps: int) -> DataLoader[Any]:
    """A single epoch: a trainer keeps a little of each."""
    pictures, classes = images().tensors
    return DataLoader(TensorDataset(pictures.repeat(steps // 6, 1, 1, 1), classes.repeat(steps // 6)), batch_size=4)


def counted(folder: Path, name: str, *steps: int) -> list[dict[str, int]]:
    """What is alive after so many steps of a configuration."""
    census, last = Census(*steps), steps[-1]
    fitted = trainer(folder, ChannelPruning(**RUNS[name]), census, max_steps=last, max_epochs=1)
    fitted.fit(Classifier(), data(last + 6))
    return census.found


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name in RUNS:
        counted(folder, name, 60)
    found = {}
    for name in RUNS:
        last = 400 if "sampler" in RUNS[name] else 1000
        found[name] = counted(folder, name, last // 5, last)
    (folder / "census.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
