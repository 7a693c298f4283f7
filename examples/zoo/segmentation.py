"""Prune a DeepLabV3 or another of torchvision's segmentation models on Pascal VOC, auxiliary classifier included.

    python examples/zoo/segmentation.py --data /data --flops 0.5
    python examples/zoo/segmentation.py --generated

The first reads /data/VOCdevkit/VOC2012 (--download fetches it), takes torchvision's pretrained weights, and prunes in
the first half of one training. The second does the same with random weights and a few pictures that it draws.

The net returns a dict, {"out": …, "aux": …}. In eval mode the auxiliary classifier doesn't run; it is pruned with the
backbone that it hangs on all the same, since a model is traced in train mode as well.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision import tv_tensors
from torchvision.datasets import VOCSegmentation, wrap_dataset_for_transforms_v2
from torchvision.models import get_model
from torchvision.transforms import v2

from lightning_channels import ChannelPruning, export_subnet, resources_left

import generated
import options

CLASSES = 21  # VOC's twenty and the background; masks have 255 where they don't say
IGNORED = 255


class VOC(L.LightningDataModule):
    """Pascal VOC's pictures and masks, cropped to squares."""

    def __init__(self, root: Path, download: bool, size: int, batch_size: int, workers: int) -> None:
        super().__init__()
        self.root, self.download, self.size = root, download, size
        self.batch_size, self.workers = batch_size, workers

    def prepare_data(self) -> None:
        if self.download:
            VOCSegmentation(self.root, download=True)

    def setup(self, stage: str | None = None) -> None:
        normal = [
            v2.ToImage(),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.long, "others": None}, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            v2.ToPureTensor(),
        ]
        crop = v2.RandomCrop(self.size, pad_if_needed=True, fill={tv_tensors.Mask: IGNORED, "others": 0})
        augmented = [v2.RandomHorizontalFlip(), crop]
        plain = [v2.Resize(self.size), v2.CenterCrop(self.size)]
        self.train = self._dataset("train", v2.Compose([*augmented, *normal]))
        self.val = self._dataset("val", v2.Compose([*plain, *normal]))

    def _dataset(self, part: str, transforms: v2.Transform):
        return wrap_dataset_for_transforms_v2(VOCSegmentation(self.root, image_set=part, transforms=transforms))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, num_workers=self.workers)


class Segmenter(L.LightningModule):
    """Cross entropy of each pixel, and 0.4 of the auxiliary classifier's; mean intersection over union."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.loss = nn.CrossEntropyLoss(ignore_index=IGNORED)
        self.iou = MulticlassJaccardIndex(CLASSES, ignore_index=IGNORED)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, masks = batch
        outputs, classes = self(images), masks.squeeze(1)
        loss = self.loss(outputs["out"], classes) + 0.4 * self.loss(outputs["aux"], classes)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, masks = batch
        self.iou(self(images)["out"], masks.squeeze(1))
        self.log("val_iou", self.iou, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, steps, power=0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def build(name: str, weights: str) -> nn.Module:
    """A torchvision segmentation model with its auxiliary classifier; its weights are trained on VOC's classes."""
    if weights == "NONE":
        return get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    return get_model(name, weights=weights)


def run(args: argparse.Namespace) -> nn.Module:
    L.seed_everything(0, workers=True)
    data = VOC(args.data, args.download, args.size, args.batch_size, args.workers)
    segmenter = Segmenter(build(args.model, args.weights), args.lr)
    pruning = ChannelPruning(module="net", criterion="l1", target={"flops": args.flops}, schedule="cubic")
    trainer = L.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        callbacks=[pruning],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )
    trainer.fit(segmenter, data)
    print(f"pruned: mean IoU {trainer.callback_metrics['val_iou']:.3f}")

    print(resources_left(segmenter.net))
    small = export_subnet(segmenter.net).eval()
    small.aux_classifier = None  # it helps in training alone
    args.output.mkdir(parents=True, exist_ok=True)
    torch.save(small, args.output / "pruned.pt")
    print(f"written: {args.output / 'pruned.pt'}")
    return small


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__, options.VOC)
    add = parser.add_argument
    add("--model", default="deeplabv3_resnet50", help="or deeplabv3_mobilenet_v3_large, lraspp has no aux loss, fcn_…")
    add("--weights", default="DEFAULT", help="torchvision's weights to begin with; NONE for random ones")
    add("--flops", type=float, default=0.5, help="share of the FLOPs that may be left")
    add("--epochs", type=int, default=30, help="the first half prunes, the second fine-tunes")
    add("--lr", type=float, default=0.01, help="of the first step")
    add("--size", type=int, default=480, help="height and width that the net sees")
    tiny = {"model": "deeplabv3_mobilenet_v3_large", "weights": "NONE", "size": 64, "batch_size": 4, "epochs": 12}
    return options.parse(parser, argv, "segmentation", 8, partial(generated.voc, size=64), tiny)


def main(argv: list[str] | None = None) -> nn.Module:
    return run(parse(argv))


if __name__ == "__main__":
    main()
