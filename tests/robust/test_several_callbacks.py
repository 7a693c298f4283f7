"""Two callbacks, each for a submodule of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from lightning_channels import ChannelMutator, ChannelPruning, export_subnet
from tests.callbacks.nets import Classifier, Watch, conv_net, loader, trainer

PARTS = ("encoder", "decoder")
UNITS = {"encoder": "0_(0, 8)_8", "decoder": "0_(0, 10)_10"}


class Two(Classifier):
    """Six batches an epoch."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.encoder = conv_net(dropout=0.0)[:6]
        self.decoder = nn.Sequential(
            nn.Conv2d(12, 10, 1), nn.BatchNorm2d(10), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 4)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def callbacks(**arguments: Any) -> list[ChannelPruning]:
    return [ChannelPruning(module=part, seed=seed, **arguments) for seed, part in enumerate(PARTS)]


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(*pair) for pair in zip(left.state_dict().values(), right.state_dict().values(), strict=True))


def test_at_the_widest_it_is_the_run_without_them(tmp_path: Path) -> None:
    modules = [Two(), Two()]
    for module, pruning in zip(modules, ([], callbacks(sampler="max", recalibrate=2)), strict=True):
        torch.manual_seed(0)
        trainer(tmp_path, *pruning, max_epochs=2).fit(module, loader(), loader(shuffle=False))
    assert same(*modules)


def test_each_has_its_units_its_logs_and_its_files(tmp_path: Path) -> None:
    encoder, decoder = ChannelPruning(module="encoder", sampler="min"), ChannelPruning(module="decoder", seed=4)
    watch = Watch(decoder)
    run = trainer(tmp_path, encoder, decoder, watch, logger=CSVLogger(tmp_path, name="", version=""))
    run.fit(Two(), loader())
    assert (encoder.state_key, decoder.state_key) == ("ChannelPruning[encoder]", "ChannelPruning[decoder]")
    for pruning, part in zip((encoder, decoder), PARTS, strict=True):
        assert list(pruning.mutator.current_choices) == [UNITS[part]]
        assert f"channels/{part}/flops" in run.callback_metrics
    assert len({choices[UNITS["decoder"]] for choices in watch.train}) > 2
    run.save_checkpoint(tmp_path / "both.ckpt")
    states = torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]
    assert {"ChannelPruning[encoder]", "ChannelPruning[decoder]"} <= set(states)
    assert all((tmp_path / f"both.{part}.structure.yaml").exists() for part in PARTS)
    rebuilt = ChannelPruning(mutator=tmp_path / "both.ckpt", module="decoder")
    trainer(tmp_path, rebuilt, max_steps=1).fit(Two(), loader())
    assert list(rebuilt.mutator.current_choices) == [UNITS["decoder"]]


def test_both_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    def run(name: str, epochs: int, ckpt_path: Path | None = None) -> tuple[Two, list[Watch]]:
        torch.manual_seed(0)
        module, pruning = Two(), callbacks()
        watches = [Watch(one) for one in pruning]
        saving = ModelCheckpoint(tmp_path / name, filename="x", save_last=True)
        trainer(tmp_path, *pruning, *watches, saving, max_epochs=epochs).fit(
            module, loader(shuffle=False), ckpt_path=ckpt_path
        )
        return module, watches

    whole, seen = run("whole", 2)
    _, first = run("half", 1)
    module, rest = run("half", 2, tmp_path / "half" / "last.ckpt")
    assert same(whole, module)
    for all_of_it, begin, end in zip(seen, first, rest, strict=True):
        assert all_of_it.train == begin.train + end.train
    assert seen[0].train != seen[1].train
    for part in PARTS:
        file = tmp_path / "half" / f"last.{part}.structure.yaml"
        assert UNITS[part] in file.read_text()
        fresh = getattr(Two(), part)
        mutator = ChannelPruning(mutator=file, module=part)._source.build()
        assert isinstance(mutator, ChannelMutator)
        mutator.prepare_from_supernet(fresh)
        assert list(mutator.current_choices) == [UNITS[part]]


def test_each_validates_its_widths_and_the_other_has_its_own_meanwhile(tmp_path: Path) -> None:
    encoder = ChannelPruning(module="encoder", validate=["min", 0.5])
    decoder = ChannelPruning(module="decoder", validate=["min"])
    watches = [Watch(encoder), Watch(decoder)]
    run = trainer(tmp_path, encoder, decoder, *watches)
    module = Two()
    run.fit(module, loader(), loader(shuffle=False))
    seen = [
        (a[UNITS["encoder"]], b[UNITS["decoder"]])
        for (_, a), (_, b) in zip(*(w.evaluated for w in watches), strict=True)
    ]
    assert list(dict.fromkeys(seen)) == [(8, 1), (1, 10), (4, 10), (8, 10)]
    metrics = {name: float(value) for name, value in run.callback_metrics.items() if name.startswith("val_loss")}
    names = ["val_loss", "val_loss/decoder/min", "val_loss/encoder/0.5", "val_loss/encoder/min"]
    assert sorted(metrics) == names
    assert len(set(metrics.values())) == 4
    (alone,) = run.validate(module, loader(shuffle=False), verbose=False)
    assert alone == pytest.approx(metrics)


def test_one_of_them_trains_several_widths(tmp_path: Path) -> None:
    encoder = ChannelPruning(module="encoder", sampler="sandwich")
    decoder = ChannelPruning(module="decoder", seed=2)
    watch = Watch(decoder)
    module = Two()
    trainer(tmp_path, encoder, decoder, watch).fit(module, loader())
    assert len({choices[UNITS["decoder"]] for choices in watch.train}) > 1
    assert encoder.mutator.current_choices == {UNITS["encoder"]: 8}


def test_both_parts_are_exported(tmp_path: Path) -> None:
    pruning = callbacks()
    module = Two()
    trainer(tmp_path, *pruning, max_steps=1).fit(module, loader())
    for one, number in zip(pruning, (3, 4), strict=True):
        one.mutator.set_choices(dict.fromkeys(one.mutator.current_choices, number))
    x = torch.randn(2, 3, 6, 6)
    small = export_subnet(module.eval())
    assert (small.encoder[0].out_channels, small.decoder[0].out_channels) == (3, 4)
    torch.testing.assert_close(small(x), module(x))
