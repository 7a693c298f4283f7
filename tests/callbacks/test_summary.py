"""What the callback says about the units when it has found them."""

import logging

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, loader, trainer


def test_one_line_when_the_module_is_prepared(tmp_path, caplog) -> None:
    pruning = ChannelPruning()
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, pruning, max_steps=1).fit(Classifier(), loader())
    (line,) = [record.getMessage() for record in caplog.records if "can be pruned" in record.getMessage()]
    assert line.startswith("ChannelPruning: 4 units, 2 of them mutable; up to ")
    assert "print(callback.mutator.report()) lists them" in line
    assert "\n" not in line
    assert str(pruning.mutator.report()).startswith("2 of 4 units are mutable; ")


def test_where_nothing_is_mutable_the_reasons_are_in_the_error(tmp_path) -> None:
    class Last(Classifier):
        def forward(self, x):
            return self.net(x).mean((2, 3))

    message = r"2 units and none of them is mutable.*_3 meets the model's input \(convolution in net.*_4 reaches the"
    with pytest.raises(MisconfigurationException, match=message):
        trainer(tmp_path, ChannelPruning(example_inputs=torch.randn(1, 3, 6, 6))).fit(
            Last(nn.Conv2d(3, 4, 1)), loader()
        )
