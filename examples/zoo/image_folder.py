"""Prune any of torchvision's classifiers on folders of images, and fine-tune it with the unpruned one as its teacher.

    python examples/zoo/image_folder.py --data /data/imagenette --model resnet50 --flops 0.5
    python examples/zoo/image_folder.py --generated

The first takes ImageNet's weights, gives them a classifier for the classes in DATA/train/CLASS/*.jpg, trains it, prunes
it to half its FLOPs within the first half of a second training, and saves a small plain network. The second does
the same to a small network and images that it draws: no download, a minute.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder
from torchvision.models import get_model
from torchvision.transforms import v2

from lightning_channels import ChannelPruning, export_subnet, recalibrate_batch_norm, resources_left

import generated
import options


class Images(L.LightningDataModule):
    """``root/train/CLASS/*`` and ``root/val/CLASS/*``, in ImageNet's normalisation."""

    def __init__(self, root: Path, size: int, batch_size: int, workers: int) -> None:
        super().__init__()
        self.batch_size, self.workers = batch_size, workers
        normal = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
        normal.append(v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        augmented = [v2.RandomResizedCrop(size, scale=(0.3, 1.0)), v2.RandomHorizontalFlip()]
        plain = [v2.Resize(size * 8 // 7), v2.CenterCrop(size)]
        self.train = ImageFolder(str(root / "train"), v2.Compose([*augmented, *normal]))
        self.val = ImageFolder(str(root / "val"), v2.Compose([*plain, *normal]))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, self.batch_size, num_workers=self.workers)


class Classifier(L.LightningModule):
    """Cross entropy and SGD; nothing in it knows of pruning."""

    def __init__(self, net: nn.Module, classes: int, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.accuracy = MulticlassAccuracy(classes, average="micro")

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
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-4, nesterov=True)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def build(name: str, weights: str, classes: int) -> nn.Module:
    """A torchvision classifier, its last layer replaced by one for so many classes."""
    net = get_model(name, weights=None if weights == "NONE" else weights)
    last, layer = [(path, module) for path, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    net.set_submodule(last, nn.Linear(layer.in_features, classes))
    return net


def trainer_for(args: argparse.Namespace, epochs: int, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        accelerator=args.accelerator,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )


def run(args: argparse.Namespace) -> nn.Module:
    L.seed_everything(0, workers=True)
    data = Images(args.data, args.size, args.batch_size, args.workers)
    net = build(args.model, args.weights, len(data.train.classes))
    classifier = Classifier(net, len(data.train.classes), args.lr)

    # 1. an ordinary training
    trainer = trainer_for(args, args.epochs)
    trainer.fit(classifier, data)
    print(f"trained: accuracy {float(trainer.callback_metrics['val_accuracy']):.1%}")

    # 2. a second one that prunes on its way, and learns from what the network was before
    pruning = ChannelPruning(
        module="net",
        criterion=args.criterion,
        target={"flops": args.flops},
        schedule="cubic",
        distillation={"temperature": 2.0},
    )
    trainer = trainer_for(args, args.prune_epochs, pruning)
    trainer.fit(classifier, data)
    recalibrate_batch_norm(classifier.net, data.train_dataloader(), num_batches=50)
    (metrics,) = trainer.validate(classifier, data, verbose=False)
    print(f"pruned: accuracy {metrics['val_accuracy']:.1%}")

    # 3. the small network
    print(resources_left(classifier.net))
    small = export_subnet(classifier.net).eval()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.save(small, args.output / "pruned.pt")
    print(f"written: {args.output / 'pruned.pt'}; torch.load(…, weights_only=False) needs torchvision alone")
    return small


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__, options.FOLDERS)
    add = parser.add_argument
    add("--model", default="resnet50", help="a torchvision classifier: resnet50, mobilenet_v2, convnext_tiny, …")
    add("--weights", default="DEFAULT", help="torchvision's weights to begin with; NONE for random ones")
    add("--flops", type=float, default=0.5, help="share of the FLOPs that may be left")
    add("--criterion", default="l1", help="what a channel is worth: l1, l2, taylor, bn_scale, …")
    add("--epochs", type=int, default=10, help="of the training before")
    add("--prune-epochs", type=int, default=20, help="of the pruning and fine-tuning")
    add("--lr", type=float, default=0.02, help="peak of the learning rate")
    add("--size", type=int, default=224, help="height and width that the net sees")
    tiny = {"model": "resnet18", "weights": "NONE", "size": 32, "batch_size": 8, "epochs": 6, "prune_epochs": 6}
    return options.parse(parser, argv, "image_folder", 64, partial(generated.image_folder, size=36), tiny)


def main(argv: list[str] | None = None) -> nn.Module:
    return run(parse(argv))


if __name__ == "__main__":
    main()
