"""A LightningModule whose net was written with dynamic ops."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_channels import (
    ChannelPruning,
    DynamicBatchNorm2d,
    DynamicConv2d,
    DynamicLinear,
    MutableChannelContainer,
    SquentialMutableChannel,
)
from lightning_channels._plain import read_file
from tests.callbacks.nets import UNITS, WIDTHS, Classifier, Watch, loader, trainer

PREDEFINED = {"type": "ChannelMutator", "parse_cfg": {"type": "Predefined"}}


def predefined_net() -> nn.Sequential:
    """What ``conv_net`` builds, with its units said in the model."""
    net = nn.Sequential(
        DynamicConv2d(3, 8, 3, padding=1),
        DynamicBatchNorm2d(8),
        nn.ReLU(),
        DynamicConv2d(8, 12, 3, padding=1),
        DynamicBatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        DynamicLinear(12, 4),
    )
    register = MutableChannelContainer.register_mutable_channel_to_module
    for giving, reading, size in ((0, 3, 8), (3, 8, 12)):
        mutable = SquentialMutableChannel(size)
        register(net[giving], mutable)
        register(net[giving + 1], mutable)
        register(net[reading], mutable, is_to_output_channel=False)
    return net


def test_it_trains_and_is_rebuilt_from_its_structure_file(tmp_path: Path) -> None:
    pruning = ChannelPruning(PREDEFINED)
    watch = Watch(pruning)
    saving = ModelCheckpoint(tmp_path, filename="last")
    module = Classifier(predefined_net())
    trainer(tmp_path, pruning, watch, saving, max_epochs=2).fit(module, loader(), loader(shuffle=False))
    assert list(pruning.mutator.name2unit) == UNITS
    assert len({tuple(choices.values()) for choices in watch.train}) > 3
    assert watch.evaluated[-1] == ("validate", WIDTHS)

    structure = read_file(tmp_path / "last.structure.yaml")
    assert structure["template"]["parse_cfg"] == {"type": "Predefined"}
    again = ChannelPruning(str(tmp_path / "last.structure.yaml"), sampler="min")
    other = Classifier(predefined_net())
    run = trainer(tmp_path, again, max_epochs=3)
    run.fit(other, loader(), loader(shuffle=False), ckpt_path=str(tmp_path / "last.ckpt"))
    assert run.global_step == 18
    assert list(again.mutator.name2unit) == UNITS


def test_another_way_of_finding_units_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match=r"takes parse_cfg=\{'type': 'Predefined'\}"):
        trainer(tmp_path, ChannelPruning()).fit(Classifier(predefined_net()), loader(), loader(shuffle=False))
