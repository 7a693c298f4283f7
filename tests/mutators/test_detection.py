"""Torchvision's detection models: lists of images in, dicts of boxes out, and choices by data in between."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import lightning as L
import pytest
import torch
from invariants import masked
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from lightning_channels import ChannelMutator, ChannelPruning, export_subnet

SIZES: dict[str, Any] = {"min_size": 96, "max_size": 128}


def faster_rcnn() -> nn.Module:
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, rpn_post_nms_top_n_test=10, box_score_thresh=0.0, **SIZES
    )


def ssd() -> nn.Module:
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    model.transform.fixed_size = (96, 96)
    return model


def retina() -> nn.Module:
    def block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())

    body = nn.Sequential(block(3, 8), block(8, 12), block(12, 16), block(16, 20), block(20, 24))
    backbone = BackboneWithFPN(body, {"2": "0", "3": "1", "4": "2"}, [16, 20, 24], 16, LastLevelP6P7(16, 16))
    return detection.RetinaNet(backbone, num_classes=3, score_thresh=0.0, **SIZES)


MODELS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "faster R-CNN": (faster_rcnn, "backbone.body.2.block.0.0_(0, 64)_64", 25),
    "SSDlite": (ssd, "backbone.features.0.2.block.0.0_(0, 64)_64", 25),
    "RetinaNet": (retina, "backbone.body.0.0_(0, 8)_8", 5),
}


def images(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator).to(dtype) for size in ((80, 100), (90, 70))]


@pytest.mark.parametrize(("build", "name", "least"), MODELS.values(), ids=MODELS)
def test_the_backbone_narrows_and_the_rest_says_why_not(build: Any, name: str, least: int) -> None:
    torch.manual_seed(0)
    plain = build().double().eval()
    model = copy.deepcopy(plain)
    inputs = (images(torch.float64),)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    report = mutator.report()
    assert name in mutator.current_choices
    assert sum(unit.name.startswith("backbone.") for unit in mutator.mutable_units) >= least
    assert report.covered > 0.95
    fixed = [unit for unit in report.units if not unit.mutable]
    assert fixed
    assert all(unit.reason for unit in fixed)
    assert all(re.fullmatch(r".+\.py:\d+", unit.line) for unit in fixed if unit.op)
    assert any("torchvision/models/detection/" in unit.line for unit in fixed)
    for unit in mutator.mutable_units:
        unit.keep_first(unit.num_channels // unit.groups // 2 * unit.groups)
    reference = masked(plain, mutator)
    with torch.no_grad():
        full, narrow, expected = plain(*inputs), model(*inputs), reference(*inputs)
        exported = export_subnet(model)(*inputs)
    assert any(not torch.equal(a["scores"], b["scores"]) for a, b in zip(full, narrow, strict=True))
    for own, want, small in zip(narrow, expected, exported, strict=True):
        assert own["scores"].numel()
        torch.testing.assert_close(own, want)
        torch.testing.assert_close(own, small)


class Detector(L.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        return self.net(images, targets)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return sum(self(*batch).values())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


@pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`")
@pytest.mark.parametrize("submodule", [None, "net"])
@pytest.mark.parametrize("build", [faster_rcnn, retina])
def test_in_a_lightning_module(tmp_path: Any, build: Any, submodule: str | None) -> None:
    """Its batches are a list of images of several sizes, and a list of targets."""
    torch.manual_seed(0)
    target = {"boxes": torch.tensor([[4.0, 4.0, 60.0, 60.0]]), "labels": torch.tensor([1])}
    items = [(image, target) for image in images()]
    loader = DataLoader(items, batch_size=2, collate_fn=lambda samples: tuple(zip(*samples, strict=True)))
    pruning = ChannelPruning(module=submodule)
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        fast_dev_run=True,
        callbacks=[pruning],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Detector(build()), loader)
    assert sum("backbone." in unit.name for unit in pruning.mutator.mutable_units) >= 5
