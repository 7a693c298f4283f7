"""What needs a GPU: half precision with a scaler as a trainer makes it, and FSDP1, which is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, loader, trainer
from tests.trainer.twins import assert_random_works, assert_twins

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", "bf16-mixed"])
def test_precision(tmp_path: Path, precision: str) -> None:
    options = {"accelerator": "gpu", "precision": precision, "deterministic": True}
    assert_twins(tmp_path, **options)
    assert_random_works(tmp_path, **options)


def test_flattened_parameters_are_refused(tmp_path: Path) -> None:
    module = Classifier()
    runner = trainer(tmp_path, ChannelPruning(), accelerator="gpu", strategy=FSDPStrategy())
    with pytest.raises(MisconfigurationException, match="FSDPStrategy flattens parameters"):
        runner.fit(module, loader())
    assert type(module.net[0]) is nn.Conv2d
