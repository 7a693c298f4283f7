"""examples/prune.py: both recipes with few steps, and what it leaves behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lightning_channels import ChannelPruning
from lightning_channels._config import config_dir, examples_dir
from slimmable.prune import run
from slimmable.run import train
from tests.examples.app import run_example

TINY = [
    "trainer.accelerator=cpu",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=1",
    "trainer.max_epochs=4",
    "pretraining.max_epochs=1",
    "report.latency_runs=1",
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        return compose("prune", [*TINY, *overrides])


def test_as_a_program(tmp_path: Path) -> None:
    done = run_example("prune.py", "experiment=digits_l1", *TINY, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    top, unpruned, pruned = [line for line in done.stdout.splitlines() if line[10:15] == "width" or "%" in line][-3:]
    assert top.split() == ["width", "accuracy", "MFLOPs", "parameters", "latency"]
    assert (unpruned.split()[0], pruned.split()[0]) == ("unpruned", "pruned")
    assert float(pruned.split()[3]) <= 0.5 * float(unpruned.split()[3])
    for name in ("unpruned.ckpt", "pruned.ckpt", "pruned.structure.yaml", "pruned.pt", "results.json"):
        assert (tmp_path / "out" / name).exists()
    code = (
        "import sys; sys.modules['lightning_channels'] = None\n"
        "import torch; net = torch.load(sys.argv[1], weights_only=False)\n"
        "print(type(net).__name__, sum(p.numel() for p in net.parameters()))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "out" / "pruned.pt"]
    loaded = subprocess.run(command, cwd=examples_dir(), capture_output=True, text=True, check=True)
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert loaded.stdout == f"DigitsResNet {rows[1]['parameters']}\n"


def test_group_fisher_reaches_its_target_from_a_checkpoint(tmp_path: Path) -> None:
    first = run(composed("experiment=digits_l1"), tmp_path / "first")
    again = composed(
        "experiment=digits_group_fisher",
        f"pretrained={tmp_path / 'first' / 'unpruned.ckpt'}",
        "callback.target.flops=0.8",
        "schedule.interval=1",
        "schedule.channels=4",
    )
    unpruned, pruned = run(again, tmp_path / "second")
    assert unpruned.flops == first[0].flops
    assert unpruned.accuracy == first[0].accuracy
    assert not (tmp_path / "second" / "unpruned.ckpt").exists()
    assert 0.7 * unpruned.flops < pruned.flops <= 0.8 * unpruned.flops
    state = torch.load(tmp_path / "second" / "pruned.ckpt", weights_only=True)["callbacks"]["ChannelPruning[net]"]
    assert state["pruning"]["pruner"]["progress"]["finished"]
    assert state["template"]["type"] == "GroupFisherChannelMutator"


def test_criterion_and_schedule_of_the_command_line_reach_the_callback(tmp_path: Path) -> None:
    for own in ([], ["experiment=digits_l1"], ["experiment=digits_group_fisher"]):
        callback = composed(*own, "criterion=taylor", "criterion.joint=true", "schedule=cubic").callback
        assert (callback.criterion.type, callback.criterion.joint) == ("taylor", True)
        assert callback.schedule.type == "cubic"
    assert composed("callback.criterion=l2", "callback.schedule=one_shot").callback.criterion == "l2"
    options = ["criterion=taylor", "schedule=cubic", "schedule.end_step=5", "trainer.max_epochs=2"]
    done = run_example("prune.py", *TINY, *options, "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    state = torch.load(tmp_path / "out" / "pruned.ckpt", weights_only=True)["callbacks"]["ChannelPruning[net]"]
    progress = state["pruning"]["pruner"]["progress"]
    assert (progress["finished"], progress["span"]["end"], progress["done"]) == (True, 5, 5)


def test_the_training_prunes_where_it_is_told_to(tmp_path: Path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        config = compose(
            "train",
            [
                *[option for option in TINY if not option.startswith("pretraining")],
                *("trainer.max_epochs=1", "criterion=taylor", "schedule=cubic", "callback.sampler=null"),
                "+callback.target.flops=0.5",
            ],
        )
    trained = train(config, tmp_path)
    pruner = next(c for c in trained.trainer.callbacks if isinstance(c, ChannelPruning)).pruner
    assert (type(pruner.criterion).__name__, type(pruner.schedule).__name__) == ("TaylorCriterion", "CubicSchedule")
    assert pruner.finished
    assert pruner.reached["flops"] <= pruner.limits["flops"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_l1", "digits_group_fisher"])
def test_the_recipe_reaches_its_target(tmp_path: Path, name: str) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
        config = compose("prune", [f"experiment={name}", "trainer.accelerator=cpu", "report.latency_runs=1"])
    unpruned, pruned = run(config, tmp_path)
    assert pruned.flops <= 0.5 * unpruned.flops
    assert pruned.accuracy >= unpruned.accuracy - 0.01
