"""Strategies that start processes of their own: what the process that called ``fit`` gets back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_channels import ChannelPruning
from tests.callbacks.nets import UNITS, Classifier, loader, trainer
from tests.callbacks.ranks import run_ranks
from tests.trainer.twins import assert_same


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("spawn")
    (folder / "tmp").mkdir()
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder / "tmp")
    try:
        run_ranks("tests.trainer.spawn_runs", folder)
    finally:
        os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "found.pt", weights_only=False)  # type: ignore[no-any-return]


def test_the_weights_of_a_run_at_random_widths_come_back(folder: Path, found: dict[str, Any], tmp_path: Path) -> None:
    """Into the module as it was, plain or prepared, at the widest either way; the structure is in checkpoints."""
    assert found["random"]["dynamic"] == [False, False]
    assert found["prepared"]["dynamic"] == [True, True]
    assert found["random"]["widths"] == found["prepared"]["widths"] == (8, 12)
    assert not torch.equal(found["random"]["weights"]["net.0.weight"], Classifier().net[0].weight)
    for name, tensor in found["random"]["weights"].items():
        torch.testing.assert_close(found["prepared"]["weights"][name], tensor, msg=name)
    # tested by the same trainer, which starts processes again
    assert found["tested"][0]["val_loss"] == pytest.approx(float(found["random"]["metrics"]["val_loss"]))

    path = folder / "kept" / "spawned.ckpt"
    saved = torch.load(path, weights_only=True)["state_dict"]
    assert_same(dict(found["random"]["weights"]), dict(saved))
    pruning, module = ChannelPruning(mutator=path), Classifier()
    trainer(tmp_path, pruning).test(module, loader(shuffle=False), ckpt_path=path, verbose=False)
    assert list(pruning.mutator.current_choices) == UNITS
    assert_same(dict(module.state_dict()), dict(saved))


def test_nothing_lies_about(folder: Path) -> None:
    assert [path.name for path in folder.rglob("*.yaml")] == ["spawned.structure.yaml"]


def test_what_does_not_come_back_is_said(found: dict[str, Any]) -> None:
    assert "that starts processes of its own" in found["mutator"]
    assert "switchable norms" in found["slimmable"]
    assert "or use strategy='ddp'" in found["slimmable"]
