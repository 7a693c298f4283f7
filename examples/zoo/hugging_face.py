"""Prune the attention heads and the MLPs of a Hugging Face vision transformer, and save it so that it loads again.

    python examples/zoo/hugging_face.py --data /data/imagenette --model google/vit-base-patch16-224-in21k --heads 0.5
    python examples/zoo/hugging_face.py --generated

The first takes the hub's weights and image processor, and prunes in the first half of one training. The second does the
same to a small transformer with random weights, and images that it draws.

Every block keeps as many heads and hidden units as the others, the ones that matter most in it. So transformers' own
config can say what is left, and ViTForImageClassification.from_pretrained(OUTPUT) loads it, without lightning-channels.

Needs transformers: pip install 'lightning-channels[zoo]'
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification

from lightning_channels import ChannelPruning, export_subnet, resources_left

import generated
import options


class Images(L.LightningDataModule):
    """``root/train/CLASS/*`` and ``root/val/CLASS/*``, in batches of ``pixel_values`` and ``labels``."""

    def __init__(self, root: Path, size: int, mean: list[float], std: list[float], args: argparse.Namespace) -> None:
        super().__init__()
        self.batch_size, self.workers = args.batch_size, args.workers
        normal = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
        augmented = [v2.RandomResizedCrop(size, scale=(0.3, 1.0)), v2.RandomHorizontalFlip()]
        self.train = ImageFolder(str(root / "train"), v2.Compose([*augmented, *normal]))
        self.val = ImageFolder(str(root / "val"), v2.Compose([v2.Resize((size, size)), *normal]))

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val)

    def _loader(self, dataset: ImageFolder, **options: bool) -> DataLoader:
        return DataLoader(dataset, self.batch_size, collate_fn=_named, num_workers=self.workers, **options)


def _named(samples: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
    images, labels = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


class Classifier(L.LightningModule):
    """The loss is the transformer's own."""

    def __init__(self, net: ViTForImageClassification, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.accuracy = MulticlassAccuracy(net.config.num_labels, average="micro")

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None):
        return self.net(pixel_values, labels=labels)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self(**batch).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.accuracy(self(**batch).logits, batch["labels"])
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.05)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def describe(net: ViTForImageClassification) -> ViTForImageClassification:
    """Write into the config what is left, so that ``from_pretrained`` builds just that."""
    (shape,) = {
        (layer.attention.head_dim, layer.attention.q_proj.out_features, layer.mlp.fc1.out_features)
        for layer in net.vit.layers
    }
    head_dim, width, hidden = shape
    net.config.update({"head_dim": head_dim, "num_attention_heads": width // head_dim, "intermediate_size": hidden})
    return net


def run(args: argparse.Namespace) -> ViTForImageClassification:
    L.seed_everything(0, workers=True)
    names = sorted(folder.name for folder in (args.data / "train").iterdir() if folder.is_dir())
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    if args.generated:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
        net = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes, **labels))
        mean = std = [0.5, 0.5, 0.5]
    else:
        net = ViTForImageClassification.from_pretrained(args.model, ignore_mismatched_sizes=True, **labels)
        processor = AutoImageProcessor.from_pretrained(args.model)
        mean, std = processor.image_mean, processor.image_std

    pruning = ChannelPruning(
        module="net",
        criterion=args.criterion,
        schedule="cubic",
        # these widths in place of a target; the embedding, which runs through all blocks, stays as it is
        pruning={"scope": {"*.attention.*": args.heads, "*.mlp.*": args.hidden}, "ignore": ["*.embeddings.*"]},
    )
    trainer = L.Trainer(
        max_epochs=args.epochs,
        accelerator=args.accelerator,
        callbacks=[pruning],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
    )
    trainer.fit(Classifier(net, args.lr), Images(args.data, net.config.image_size, mean, std, args))
    print(f"pruned: accuracy {trainer.callback_metrics['val_accuracy']:.1%}")

    print(resources_left(net))
    small = describe(export_subnet(net).eval())
    small.save_pretrained(args.output)
    print(f"{small.config.num_attention_heads} heads and {small.config.intermediate_size} hidden units a block")
    print(f"written: {args.output}; ViTForImageClassification.from_pretrained({str(args.output)!r}) loads it")
    return small


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__, options.FOLDERS)
    add = parser.add_argument
    add("--model", default="google/vit-base-patch16-224-in21k", help="a ViT on the hub, or its folder")
    add("--heads", type=float, default=0.5, help="share of its heads that every block keeps")
    add("--hidden", type=float, default=0.5, help="share of its MLP's hidden units that every block keeps")
    add("--criterion", default="taylor", help="what a head or a hidden unit is worth: l1, l2, taylor, …")
    add("--epochs", type=int, default=10, help="the first half prunes, the second fine-tunes")
    add("--lr", type=float, default=1e-4, help="peak of the learning rate")
    tiny = {"batch_size": 8, "epochs": 12, "lr": 3e-3}
    return options.parse(parser, argv, "hugging_face", 32, partial(generated.image_folder, size=36), tiny)


def main(argv: list[str] | None = None) -> ViTForImageClassification:
    return run(parse(argv))


if __name__ == "__main__":
    main()
