"""Prune the backbone and feature pyramid of a torchvision detector on Pascal VOC.

    python examples/zoo/detector.py --data /data --model fasterrcnn_resnet50_fpn_v2 --flops 0.6
    python examples/zoo/detector.py --data /data --model retinanet_resnet50_fpn_v2
    python examples/zoo/detector.py --generated

The first two read /data/VOCdevkit/VOC2012 (--download fetches it), take torchvision's pretrained backbone, and prune in
the first half of one training. The third does the same with random weights and a few pictures that it draws.

A detector gets lists of images of any size, and returns losses in training and boxes otherwise. Most of its time goes
into the backbone, a net like any other, and that is what the callback is confined to: module="net.backbone". The target
is a share of the backbone's FLOPs; what the backbone returns keeps its width, since the heads rely on it.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchvision.datasets import VOCDetection, wrap_dataset_for_transforms_v2
from torchvision.models import get_model
from torchvision.ops import box_iou
from torchvision.transforms import v2

from lightning_channels import ChannelPruning, export_subnet, resources_left

import generated
import options

CLASSES = 21  # VOC's twenty and the background

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


class VOC(L.LightningDataModule):
    """Pascal VOC's pictures, and the boxes and classes of what is in them."""

    def __init__(self, root: Path, download: bool, batch_size: int, workers: int) -> None:
        super().__init__()
        self.root, self.download, self.batch_size, self.workers = root, download, batch_size, workers

    def prepare_data(self) -> None:
        if self.download:
            VOCDetection(self.root, download=True)

    def setup(self, stage: str | None = None) -> None:
        plain = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
        self.train = self._dataset("train", v2.Compose([v2.RandomHorizontalFlip(), *plain]))
        self.val = self._dataset("val", v2.Compose(plain))

    def _dataset(self, part: str, transforms: v2.Transform):
        dataset = VOCDetection(self.root, image_set=part, transforms=transforms)
        return wrap_dataset_for_transforms_v2(dataset, target_keys=("boxes", "labels"))

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val)

    def _loader(self, dataset, **options: bool) -> DataLoader:
        return DataLoader(dataset, self.batch_size, collate_fn=_lists, num_workers=self.workers, **options)


def _lists(samples: list[tuple[Tensor, dict[str, Tensor]]]) -> Batch:
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


class Detector(L.LightningModule):
    """The sum of the detector's own losses; validated by how many of the objects it finds."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.found = MeanMetric()

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None):
        return self.net(images, targets)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        losses = self(*batch)
        loss = sum(losses.values())
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch[0]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        for boxes, target in zip(self(images), targets, strict=True):
            overlaps = box_iou(target["boxes"], boxes["boxes"])
            right = (overlaps > 0.5) & (target["labels"][:, None] == boxes["labels"])
            self.found(right.any(1).float())
        self.log("val_found", self.found, prog_bar=True, batch_size=len(images))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def build(args: argparse.Namespace) -> nn.Module:
    """A torchvision detector for VOC's classes, with a backbone that is trained on ImageNet."""
    options = {}
    if args.size is not None and not args.model.startswith("ssd"):  # these have one size
        options |= {"min_size": args.size, "max_size": args.size}
    if not args.random and not args.model.startswith("ssd"):  # by default some layers are frozen
        options["trainable_backbone_layers"] = 6 if "mobilenet" in args.model else 5
    backbone = None if args.random else "DEFAULT"
    return get_model(args.model, weights=None, weights_backbone=backbone, num_classes=CLASSES, **options)


def run(args: argparse.Namespace) -> nn.Module:
    L.seed_everything(0, workers=True)
    detector = Detector(build(args), args.lr)
    pruning = ChannelPruning(module="net.backbone", criterion="l1", target={"flops": args.flops}, schedule="cubic")
    trainer = L.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        callbacks=[pruning],
        gradient_clip_val=10.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )
    trainer.fit(detector, VOC(args.data, args.download, args.batch_size, args.workers))
    print(f"pruned: {trainer.callback_metrics['val_found']:.1%} of the objects found")

    print("of the backbone:", resources_left(detector.net.backbone), sep="\n")
    small = export_subnet(detector.net).eval()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.save(small, args.output / "pruned.pt")
    print(f"written: {args.output / 'pruned.pt'}")
    return small


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__, options.VOC)
    add = parser.add_argument
    add("--model", default="fasterrcnn_resnet50_fpn_v2", help="or another of torchvision's: retinanet_…, ssdlite320_…")
    add("--random", action="store_true", help="begin with a random backbone, not with torchvision's")
    add("--flops", type=float, default=0.6, help="share of the backbone's FLOPs that may be left")
    add("--epochs", type=int, default=26, help="the first half prunes, the second fine-tunes")
    add("--lr", type=float, default=0.01, help="peak of the learning rate")
    add("--size", type=int, default=None, help="side that images are scaled to, if not the model's own")
    tiny = {"model": "fasterrcnn_mobilenet_v3_large_320_fpn", "random": True, "size": 64, "batch_size": 4}
    tiny |= {"epochs": 20, "lr": 0.02}
    return options.parse(parser, argv, "detector", 8, partial(generated.voc, size=64), tiny)


def main(argv: list[str] | None = None) -> nn.Module:
    return run(parse(argv))


if __name__ == "__main__":
    main()
