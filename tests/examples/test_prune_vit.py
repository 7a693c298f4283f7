"""examples/prune_vit.py: half the FLOPs, the strongest heads and hidden units, and a file that needs no package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from lightning_channels import ChannelMutator, ResourceCounter
from lightning_channels._config import config_dir, examples_dir
from prune_vit import find_ratio, measure, predictions_elsewhere, prune, run, strengths
from slimmable.data import Digits
from slimmable.models import DigitsViT
from tests.examples.app import run_example

TINY = ["trainer.accelerator=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=3"]
NAMES = ["unpruned", "pruned", "pruned and fine-tuned"]


@pytest.fixture
def config() -> Callable[..., DictConfig]:
    """conf/prune_vit.yaml with overrides."""

    def composed(*overrides: str) -> DictConfig:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_dir())):
            return compose("prune_vit", list(overrides))

    return composed


def printed_rows(printed: str) -> dict[str, list[str]]:
    """The cells of the printed table, by the row's name."""
    lines = printed.splitlines()
    (top,) = [number for number, line in enumerate(lines) if line.split()[:3] == ["accuracy", "MACs", "parameters"]]
    return {line[:24].strip(): line[24:].split() for line in lines[top + 1 : top + 4]}


def test_as_a_program(tmp_path: Path) -> None:
    done = run_example("prune_vit.py", *TINY, "model.depth=2", "hydra.run.dir=out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = printed_rows(done.stdout)
    assert list(rows) == NAMES
    accuracies, macs, parameters = zip(*(row[:3] for row in rows.values()), strict=True)
    assert all(accuracy.endswith("%") for accuracy in accuracies)
    full, *pruned = (int(number.replace(",", "")) for number in macs)
    assert pruned[0] == pruned[1] <= full / 2
    assert parameters[1] == parameters[2] < parameters[0]
    assert [row[3:] for row in rows.values()] == [["4", "4"], ["2", "2"], ["2", "2"]]
    assert "loaded without lightning_channels: 360 of 360 predictions are the same" in done.stdout
    code = (
        "import sys; sys.modules['lightning_channels'] = None\n"
        "import torch; net = torch.load(sys.argv[1], weights_only=False)\n"
        "assert not [name for name in sys.modules if name.startswith('lightning_channels.')]\n"
        "print(type(net).__name__, [block.attention.num_heads for block in net.blocks])\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "out" / "pruned.pt"]
    loaded = subprocess.run(command, cwd=examples_dir(), capture_output=True, text=True, check=True)
    assert loaded.stdout == "DigitsViT [2, 2]\n"


def test_the_strongest_heads_and_hidden_units_are_kept(config: Callable[..., DictConfig]) -> None:
    net = DigitsViT().eval()
    with torch.no_grad():
        for qkv in (block.attention.qkv for block in net.blocks):
            qkv.weight.view(3, 4, 12, 48)[:, [1, 3]] *= 3
        for first in (block.mlp[0] for block in net.blocks):
            first.weight[60:] *= 3
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = prune(net, config())
    for block, full in zip(small.blocks, net.blocks, strict=True):
        heads = full.attention.qkv.weight.view(3, 4, 12, 48)[:, [1, 3]].reshape(-1, 48)
        assert torch.equal(block.attention.qkv.weight, heads)
        assert torch.equal(
            block.attention.proj.weight, full.attention.proj.weight.view(48, 4, 12)[:, [1, 3]].flatten(1)
        )
        hidden = block.mlp[0].out_features
        strongest = full.mlp[0].weight.norm(dim=1).topk(hidden).indices.sort().values
        assert strongest.min() >= 60
        assert torch.equal(block.mlp[0].weight, full.mlp[0].weight[strongest])
        assert torch.equal(block.mlp[2].weight, full.mlp[2].weight[:, strongest])
    assert (small.patches.out_channels, small.head.in_features) == (48, 48)
    assert type(net.blocks[0].mlp[0]) is torch.nn.Linear
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_channel_is_as_strong_as_the_weights_that_compute_it() -> None:
    net = DigitsViT(depth=1)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net, torch.zeros(1, 1, 8, 8))
    heads, hidden = (unit for unit in mutator.mutable_units if unit.name.startswith("blocks."))
    block = net.blocks[0]
    torch.testing.assert_close(
        strengths(net, heads), block.attention.qkv.weight.view(3, 4, -1).norm(dim=2).norm(dim=0).detach()
    )
    torch.testing.assert_close(strengths(net, hidden), block.mlp[0].weight.norm(dim=1).detach())


@pytest.mark.parametrize("flops", [0.3, 0.5, 0.8, 1.0])
def test_no_more_is_dropped_than_must_be(flops: float) -> None:
    mutator = ChannelMutator({"type": "SequentialMutableChannelUnit", "default_args": {"choice_mode": "ratio"}})
    mutator.prepare_from_supernet(DigitsViT(), torch.zeros(1, 1, 8, 8))
    units = [unit for unit in mutator.mutable_units if unit.name.startswith("blocks.")]
    counter = ResourceCounter(mutator)
    ratio = find_ratio(mutator, units, flops)
    mutator.set_choices({unit.name: ratio for unit in units})
    assert counter.active_macs() <= flops * counter.total_macs
    if flops == 1:
        assert counter.active_macs() == counter.total_macs
    else:
        mutator.set_choices({unit.name: ratio + 1 / 192 for unit in units})  # one hidden unit more
        assert counter.active_macs() > flops * counter.total_macs


def test_what_cannot_be_reached_is_said_before_the_training(config: Callable[..., DictConfig], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"flops=0.01 can't be reached: .* leave 0\.\d+"):
        run(config("flops=0.01", "trainer.max_epochs=1000"), tmp_path)


def test_the_saved_net_is_really_what_runs_elsewhere(tmp_path: Path) -> None:
    """The example's check can fail: another net's file predicts otherwise, and a file of the package's isn't loaded."""
    images = torch.randn(50, 1, 8, 8)
    net = DigitsViT(depth=1).eval()
    torch.save(DigitsViT(depth=1).eval(), tmp_path / "other.pt")
    assert not torch.equal(predictions_elsewhere(tmp_path / "other.pt", images), net(images).argmax(1))
    ChannelMutator().prepare_from_supernet(net, images[:1])
    torch.save(net, tmp_path / "prepared.pt")
    with pytest.raises(subprocess.CalledProcessError):
        predictions_elsewhere(tmp_path / "prepared.pt", images)


def test_macs_are_counted_on_what_runs() -> None:
    data = Digits()
    data.setup()
    row = measure("net", DigitsViT(depth=1).eval(), data)
    tokens, dim, hidden = 17, 48, 192
    linear = tokens * (dim * 3 * dim + dim * dim + 2 * dim * hidden)
    assert row.macs == 16 * 4 * dim + linear + 2 * tokens * tokens * dim + dim * 10


@pytest.mark.slow
def test_half_the_flops_cost_less_than_a_point(config: Callable[..., DictConfig], tmp_path: Path, capsys) -> None:
    unpruned, pruned, tuned = run(config("trainer.accelerator=cpu"), tmp_path)
    assert [row.name for row in (unpruned, pruned, tuned)] == NAMES
    assert unpruned.accuracy > 0.95
    assert pruned.accuracy < tuned.accuracy
    assert tuned.accuracy >= unpruned.accuracy - 0.01
    assert pruned.macs == tuned.macs <= unpruned.macs / 2
    rows = printed_rows(capsys.readouterr().out)
    assert rows == {
        row.name: [f"{row.accuracy:.2%}", f"{row.macs:,}", f"{row.parameters:,}", *map(str, row.heads)]
        for row in (unpruned, pruned, tuned)
    }
