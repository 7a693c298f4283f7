"""Nothing is left behind by a step: a process holds after thousands of them what it held after the first few."""

import gc
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from torch import Tensor
from torch.nn.parameter import Buffer, Parameter
from torch.utils.data import DataLoader, TensorDataset

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, images, trainer


class Census(L.Callback):
    """Counts what is alive after some steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps
        self.found: list[dict[str, int]] = []

    def on_train_batch_end(self, run: Any, *_: Any) -> None:
        if run.global_step in self.steps:
            gc.collect()
            things = gc.get_objects()
            # other tests' objects are among them: some are fake, some have no size yet
            tensors = [thing for thing in things if type(thing) in (Tensor, Parameter, Buffer)]
            storages = {
                id(tensor): tensor.untyped_storage() for tensor in tensors
            }  # views of the present widths share one
            size = sum({storage._cdata: storage.nbytes() for storage in storages.values()}.values())
            self.found.append({"objects": len(things), "tensors": len(tensors), "bytes": size})


def data(steps: int) -> DataLoader[Any]:
    """A single epoch: a trainer keeps a little of each."""
    pictures, classes = images().tensors
    return DataLoader(TensorDataset(pictures.repeat(steps // 6, 1, 1, 1), classes.repeat(steps // 6)), batch_size=4)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"unit": "OneShotMutableChannelUnit", "update_inactive": False},
        {"sampler": "sandwich"},
        {"sampler": "sandwich", "memory": "lean"},
    ],
    ids=["random", "one shot", "sandwich", "lean"],
)
def test_steps_leave_nothing_behind(tmp_path: Path, arguments: dict[str, Any]) -> None:
    steps = 600 if "sampler" in arguments else 2000
    pruning, census = ChannelPruning(**arguments), Census(steps // 5, steps)
    trainer(tmp_path, pruning, census, max_steps=steps, max_epochs=1).fit(Classifier(), data(steps + 6))
    early, late = census.found
    assert late["tensors"] <= early["tensors"]
    assert late["bytes"] <= early["bytes"]
    # caches may fill later, of this process's other tests too; one object a step would be four fifths of the steps
    assert late["objects"] <= early["objects"] + steps // 4, (early, late)
