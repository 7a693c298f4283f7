"""The example's train() in this process: other data, going on from a checkpoint, what is printed without a terminal."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from slimmable.classifier import Classifier
from slimmable.run import evaluate, train

TINY = ["trainer.limit_val_batches=1", "trainer.max_epochs=1", "report.latency_runs=1", "report.widths=[0.5,1.0]"]


def test_a_torchvision_model_on_a_folder_of_images(composed, tmp_path: Path) -> None:
    for part in ("train", "val"):
        for n, label in enumerate(("cat", "dog")):
            (tmp_path / part / label).mkdir(parents=True)
            for image in range(2):
                Image.new("RGB", (40, 40), (100 * n, 50 * image, 0)).save(tmp_path / part / label / f"{image}.png")
    overrides = [
        *("model=torchvision", "model.name=resnet18", "model.num_classes=2", "optimizer.lr=0.01"),
        *("data=image_folder", f"data.root={tmp_path}", "data.size=32", "data.batch_size=2", "data.num_workers=0"),
    ]
    config = composed(*overrides, *TINY)
    trained = train(config, tmp_path / "out")
    assert len(trained.mutator.mutable_units) == 12
    half, full = evaluate(trained, config)
    assert full.parameters == 11_177_538
    assert half.parameters < 0.26 * full.parameters


def test_training_goes_on_from_a_checkpoint(composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(*TINY, "trainer.max_epochs=2", "trainer.limit_train_batches=2")
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_end", lambda self: setattr(self.trainer, "should_stop", True))
        first = train(config, tmp_path / "first").trainer
    assert (first.current_epoch, first.global_step) == (1, 2)
    config.ckpt_path = str(tmp_path / "first")  # the newest in it
    second = train(config, tmp_path / "second")
    assert (second.trainer.current_epoch, second.trainer.global_step) == (2, 4)
    assert torch.load(tmp_path / "second" / "slimmable.ckpt", weights_only=True)["global_step"] == 4


def test_without_a_terminal_each_validation_prints_a_line(composed, tmp_path: Path, capsys) -> None:
    config = composed(
        *TINY, "trainer.max_epochs=2", "trainer.limit_train_batches=2", "trainer.check_val_every_n_epoch=1"
    )
    train(config, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert all("accuracy" in line for line in lines)


def test_the_same_seed_gives_the_same_network(composed, tmp_path: Path) -> None:
    config = composed(*TINY, "trainer.limit_train_batches=5")
    first, again = (train(config, tmp_path / name).classifier.state_dict() for name in ("first", "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    config.seed = 1
    other = train(config, tmp_path / "other").classifier.state_dict()
    assert not torch.equal(first["net.head.weight"], other["net.head.weight"])


def test_units_in_numbers_of_channels_are_measured_too(composed, tmp_path: Path) -> None:
    config = composed(*TINY, "unit.choice_mode=number", "trainer.limit_train_batches=1")
    half, full = evaluate(train(config, tmp_path), config)
    assert half.parameters < 0.3 * full.parameters
