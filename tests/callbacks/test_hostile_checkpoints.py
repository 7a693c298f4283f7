"""Hostile checkpoints through the trainer: refused before a weight is loaded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_channels import ChannelPruning
from tests.callbacks.nets import UNITS, Classifier, loader, trainer
from tests.files.nets import Bomb


def unit_of(state: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = state["template"]["channel_unit_cfg"]["units"][UNITS[0]]
    return found


def nested(state: dict[str, Any]) -> None:
    inner: list[Any] = []
    for _ in range(200):
        inner = [inner]
    state["choices"][UNITS[0]] = inner


def exploding(state: dict[str, Any]) -> None:
    inner: list[Any] = ["x"]
    for _ in range(12):
        inner = [inner] * 9
    state["choices"][UNITS[0]] = inner


SPOILERS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a type to import": (lambda state: state.update(_target_="os.system"), "a structure takes no key '_target_'"),
    "no units": (lambda state: state.update(template={}), "the structure's template must hold its units"),
    "a choice out of range": (lambda state: state["choices"].update({UNITS[0]: 10**9}), "is out of range"),
    "a choice of NaN": (lambda state: state["choices"].update({UNITS[0]: float("nan")}), "numbers must be finite"),
    "a choice that is a tensor": (lambda state: state["choices"].update({UNITS[0]: torch.ones(1)}), "holds a Tensor"),
    "other channels": (lambda state: unit_of(state)["channels"].update(groups=4), "has other channels"),
    "another attribute": (
        lambda state: unit_of(state)["channels"].update(attributes=[{"name": "net", "attribute": "training"}]),
        "has other channels",
    ),
    "a deep list": (nested, "nested more than 32 levels deep"),
    "an exploding list": (exploding, "holds more than 1,000,000 values"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("good")
    run = trainer(folder, ChannelPruning(choices={UNITS[0]: 3}), max_steps=1)
    run.fit(Classifier(), loader())
    run.save_checkpoint(folder / "good.ckpt")
    found: dict[str, Any] = torch.load(folder / "good.ckpt", weights_only=True)
    return found


def refused(folder: Path, checkpoint: dict[str, Any], error: type[Exception], message: str) -> None:
    torch.save(checkpoint, folder / "bad.ckpt")
    module = Classifier()
    before = copy.deepcopy(module.state_dict())
    pruning = ChannelPruning(choices={UNITS[0]: 5})
    with pytest.raises(error, match=message):
        trainer(folder, pruning, max_steps=2).fit(module, loader(), ckpt_path=folder / "bad.ckpt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert pruning.mutator.current_choices == {UNITS[0]: 5, UNITS[1]: 12}
    pruning.restore(module)
    assert [type(layer) for layer in module.net[:2]] == [nn.Conv2d, nn.BatchNorm2d]


@pytest.mark.parametrize("name", SPOILERS)
def test_states_of_the_callback(name: str, checkpoint: dict[str, Any], tmp_path: Path) -> None:
    spoil, message = SPOILERS[name]
    bad = copy.deepcopy(checkpoint)
    spoil(bad["callbacks"]["ChannelPruning"])
    refused(tmp_path, bad, MisconfigurationException, f"the checkpoint doesn't fit the model.*{message}")


@pytest.mark.parametrize("state", [[1, 2], "os.system", 3, None], ids=str)
def test_states_of_another_type(state: Any, checkpoint: dict[str, Any], tmp_path: Path) -> None:
    bad = {**checkpoint, "callbacks": {"ChannelPruning": state}}
    refused(tmp_path, bad, MisconfigurationException, "a structure must be a dict")


def test_code_in_a_checkpoint(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    bad = {**checkpoint, "callbacks": {"ChannelPruning": Bomb(sentinel)}}
    refused(tmp_path, bad, Exception, "(?i)weights.only")
    assert not sentinel.exists()
