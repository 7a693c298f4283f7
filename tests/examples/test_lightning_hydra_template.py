"""examples/lightning_hydra_template: one file adds the pruning; without it the project never heard of us."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

from lightning_channels import ChannelMutator, ChannelPruning, export_subnet
from lightning_channels._config import examples_dir
from lightning_channels._plain import read_file

PROJECT = examples_dir() / "lightning_hydra_template"
OWN = Path("configs", "callbacks", "channel_pruning.yaml")
FEWER = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.max_epochs=4", "hydra.run.dir=out"]
WITHOUT = """
import runpy, sys
sys.modules["lightning_channels"] = None  # as if it weren't installed: to import it is an error
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def train(cwd: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-W", "ignore", *command, *FEWER]
    return subprocess.run(whole, cwd=cwd, capture_output=True, text=True, env=environment, check=False)


def metrics(printed: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^([\w/]+): ([\d.]+)$", printed, re.MULTILINE)}


def net(project: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The project's network, as its configs build it."""
    monkeypatch.syspath_prepend(project)
    with initialize_config_dir(version_base="1.3", config_dir=str(project / "configs")):
        return instantiate(compose("train").model.net)


def test_one_file_prunes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = train(tmp_path, str(PROJECT / "src" / "train.py"), "callbacks=channel_pruning")
    assert done.returncode == 0, done.stderr
    found = metrics(done.stdout)
    assert found["channels/finished"] == 1
    assert 0.45 < found["channels/flops"] <= 0.5
    saved = tmp_path / "out" / "checkpoints"
    wide = net(PROJECT, monkeypatch)
    mutator = ChannelMutator.from_structure(read_file(saved / "best.structure.yaml"))
    mutator.prepare_from_supernet(wide)
    state = torch.load(saved / "best.ckpt", weights_only=True)["state_dict"]
    wide.load_state_dict({name.removeprefix("net."): value for name, value in state.items() if name[:4] == "net."})
    small = export_subnet(wide.eval())
    assert small.classifier.in_features == len(mutator.kept_channels()["features.6_(0, 64)_64"]) < 64
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(small(images), wide(images))


def test_without_the_file_the_project_is_a_plain_one(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(PROJECT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / OWN).unlink()
    naming = [
        path for path in copy.rglob("*") if path.suffix in (".py", ".yaml") and "lightning_channels" in path.read_text()
    ]
    assert naming == []
    done = train(copy, "-c", WITHOUT, "src/train.py")
    assert done.returncode == 0, done.stderr
    assert {"train/acc", "val/acc", "test/acc"} <= set(metrics(done.stdout))
    assert not [path for path in (copy / "out" / "checkpoints").iterdir() if path.suffix != ".ckpt"]


def test_the_file_builds_the_callback_beside_the_projects_own() -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(PROJECT / "configs")):
        own, with_ours = (compose("train", [f"callbacks={name}"]).callbacks for name in ("default", "channel_pruning"))
    assert {name: group for name, group in with_ours.items() if name != "channel_pruning"} == own
    assert isinstance(instantiate(with_ours.channel_pruning), ChannelPruning)
