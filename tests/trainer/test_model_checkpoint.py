"""``ModelCheckpoint``: a structure file beside each checkpoint that is kept, and none without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from lightning_channels import ChannelPruning
from lightning_channels.callbacks._checkpoints import structure_path
from tests.callbacks.nets import UNITS, Classifier, loader, trainer
from tests.trainer.twins import assert_twins, run

KINDS: dict[str, dict[str, Any]] = {
    "best by a metric": {"monitor": "val_loss", "save_top_k": 2, "filename": "{epoch}-{val_loss:.4f}"},
    "worst by a metric": {"monitor": "val_loss", "save_top_k": 1, "mode": "max", "save_last": True},
    "weights only": {"monitor": "val_loss", "save_top_k": 2, "save_weights_only": True},
    "every few steps": {"monitor": "loss", "save_top_k": 2, "every_n_train_steps": 2},
    "all": {"save_top_k": -1, "every_n_train_steps": 4},
    "the last one": {"save_top_k": 0, "save_last": True},
    "a link to the last one": {"monitor": "loss", "mode": "max", "save_last": "link", "every_n_train_steps": 2},
    "at the end of the epoch": {"save_on_train_epoch_end": True, "every_n_epochs": 2},
}


def files(folder: Path) -> tuple[set[str], set[str]]:
    """Names of the checkpoints that are files of their own, and of the structures."""
    checkpoints = {path.name for path in folder.glob("*.ckpt") if not path.is_symlink()}
    return checkpoints, {path.name for path in folder.glob("*.yaml")}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_kept_checkpoints_and_no_others_have_a_structure(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = tmp_path / "kept"
    run(tmp_path, "random", callbacks=lambda: [ModelCheckpoint(folder, **options)], max_epochs=3)
    checkpoints, structures = files(folder)
    assert checkpoints
    assert structures == {structure_path(name) for name in checkpoints}
    for path in folder.glob("*.ckpt"):
        pruning, module = ChannelPruning(mutator=path), Classifier()
        trainer(tmp_path, pruning).validate(module, loader(shuffle=False), ckpt_path=path, verbose=False)
        assert list(pruning.mutator.current_choices) == UNITS
        saved = torch.load(path, weights_only=True)["state_dict"]
        assert all(torch.equal(tensor, saved[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_the_same_checkpoints_are_kept(tmp_path: Path, options: dict[str, Any]) -> None:
    """With the same names, of the same weights, and with nothing but the structure besides."""

    def act(runner: L.Trainer, module: L.LightningModule) -> Any:
        runner.fit(module, loader(), loader(shuffle=False))
        (checkpoints,) = [c for c in runner.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        found = sorted(Path(checkpoints.dirpath).glob("*.ckpt"))  # type: ignore[arg-type]
        held = [torch.load(path, weights_only=True) for path in found]
        names = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
        return (
            [path.name for path in found],
            Path(checkpoints.best_model_path).name,
            [{name: content.get(name) for name in names} for content in held],
            [sorted(set(content.get("callbacks", {})) - {"ChannelPruning"}) for content in held],
        )

    plain, _ = assert_twins(tmp_path, act=act, callbacks=lambda: [ModelCheckpoint(**options)], max_epochs=3)
    assert plain.result[0]


def test_the_best_one_continues(tmp_path: Path) -> None:
    """``ckpt_path="best"`` and ``"last"``, in another trainer's run and in the same one's test."""
    keep = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=1, save_last=True)
    runner, module = trainer(tmp_path, ChannelPruning(), keep, max_epochs=2), Classifier()
    runner.fit(module, loader(), loader(shuffle=False))
    (best,) = runner.test(module, loader(shuffle=False), ckpt_path="best", verbose=False)
    assert best["val_loss"] == pytest.approx(float(keep.best_model_score))  # type: ignore[arg-type]
    again = trainer(tmp_path, ChannelPruning(), ModelCheckpoint(tmp_path, save_last=True), max_epochs=4)
    again.fit(Classifier(), loader(), loader(shuffle=False), ckpt_path="last")
    assert again.global_step == 24


@pytest.mark.filterwarnings(
    "ignore:.*was called without a model", "ignore:.fit.ckpt_path"
)  # beside OnExceptionCheckpoint
@pytest.mark.parametrize("kind", ["ModelCheckpoint", "OnExceptionCheckpoint"])
def test_a_checkpoint_after_an_exception(tmp_path: Path, kind: str) -> None:
    class Breaks(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                raise ZeroDivisionError

    keep = {
        "ModelCheckpoint": lambda: ModelCheckpoint(tmp_path / "kept", save_on_exception=True),
        "OnExceptionCheckpoint": lambda: OnExceptionCheckpoint(tmp_path / "kept"),
    }[kind]
    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, ChannelPruning(), keep()).fit(Breaks(), loader())
    checkpoints, structures = files(tmp_path / "kept")
    assert len(checkpoints) == 1
    assert structures == {structure_path(name) for name in checkpoints}
    pruning = ChannelPruning()
    (path,) = (tmp_path / "kept").glob("*.ckpt")
    again = trainer(tmp_path, pruning)
    again.fit(Classifier(), loader(), ckpt_path=path)
    assert again.global_step == 6


def test_checkpoints_that_are_written_in_the_background(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    keep = ModelCheckpoint(folder, monitor="loss", save_top_k=2, every_n_train_steps=1)
    trainer(tmp_path, ChannelPruning(), keep, plugins=[AsyncCheckpointIO()]).fit(Classifier(), loader())
    checkpoints, structures = files(folder)
    assert len(checkpoints) == 2
    assert structures == {structure_path(name) for name in checkpoints}
