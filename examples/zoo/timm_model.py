"""Prune any model of timm, by its name, on folders of images.

    python examples/zoo/timm_model.py --data /data/imagenette --model convnext_nano --flops 0.5
    python examples/zoo/timm_model.py --data /data/imagenette --model vit_small_patch16_224 --criterion taylor
    python examples/zoo/timm_model.py --generated

The first two take timm's pretrained weights and its transforms for them, and prune in the first half of one training.
The third does the same with random weights and small images that it draws.

Needs timm: pip install 'lightning-channels[zoo]'
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import lightning as L
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder

from lightning_channels import ChannelPruning, load_subnet, resources_left, save_subnet

import generated
import options


class Images(L.LightningDataModule):
    """``root/train/CLASS/*`` and ``root/val/CLASS/*``, as a model of timm's wants them."""

    def __init__(self, root: Path, config: dict, batch_size: int, workers: int) -> None:
        super().__init__()
        self.batch_size, self.workers = batch_size, workers
        self.train = ImageFolder(str(root / "train"), create_transform(**config, is_training=True))
        self.val = ImageFolder(str(root / "val"), create_transform(**config))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, num_workers=self.workers)


class Classifier(L.LightningModule):
    """Cross entropy and AdamW as timm sets it up: no weight decay of norms and biases."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.loss = nn.CrossEntropyLoss()
        self.accuracy = MulticlassAccuracy(net.num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = self.loss(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self):
        optimizer = create_optimizer_v2(self.net, opt="adamw", lr=self.lr, weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run(args: argparse.Namespace) -> nn.Module:
    L.seed_everything(0, workers=True)
    classes = sum(folder.is_dir() for folder in (args.data / "train").iterdir())
    net = timm.create_model(args.model, pretrained=not args.random, num_classes=classes)
    config = resolve_model_data_config(net, args={"input_size": (3, args.size, args.size)} if args.size else {})
    data = Images(args.data, config, args.batch_size, args.workers)
    classifier = Classifier(net, args.lr)
    pruning = ChannelPruning(module="net", criterion=args.criterion, target={"flops": args.flops}, schedule="cubic")
    trainer = L.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        callbacks=[pruning],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )
    trainer.fit(classifier, data)
    print(f"pruned: accuracy {trainer.callback_metrics['val_accuracy']:.1%}")

    print(resources_left(classifier.net))
    metrics = {"accuracy": trainer.callback_metrics["val_accuracy"]}
    subnet = save_subnet(classifier.net, args.output, metrics=metrics)  # what is kept, and its weights as safetensors
    print(f"written: {subnet}")
    return load_subnet(lambda: timm.create_model(args.model, num_classes=classes), subnet).eval()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__, options.FOLDERS)
    add = parser.add_argument
    add("--model", default="resnet50d", help="any of timm.list_models()")
    add("--random", action="store_true", help="begin with random weights, not with timm's")
    add("--flops", type=float, default=0.5, help="share of the FLOPs that may be left")
    add("--criterion", default="l1", help="what a channel is worth: l1, l2, taylor, …")
    add("--epochs", type=int, default=30, help="the first half prunes, the second fine-tunes")
    add("--lr", type=float, default=5e-4, help="peak of the learning rate")
    add("--size", type=int, default=None, help="height and width that the net sees, if not the model's own")
    tiny = {"model": "resnet10t", "random": True, "size": 32, "batch_size": 8, "epochs": 6, "lr": 2e-3}
    return options.parse(parser, argv, "timm_model", 64, partial(generated.image_folder, size=36), tiny)


def main(argv: list[str] | None = None) -> nn.Module:
    return run(parse(argv))


if __name__ == "__main__":
    main()
