"""How long and how often: limits, overfitting, sanity steps, reloaded loaders, and what turns the rest off."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_channels import ChannelPruning
from tests.callbacks.nets import Classifier, loader
from tests.trainer.twins import assert_random_works, assert_same, assert_twins, run

LOOPS: dict[str, dict[str, Any]] = {
    "overfit batches": {"overfit_batches": 2},
    "overfit a share": {"overfit_batches": 0.5},
    "limits": {"limit_train_batches": 3, "limit_val_batches": 2},
    "shares": {"limit_train_batches": 0.5, "limit_val_batches": 0.5},
    "no validation": {"limit_val_batches": 0},
    "sanity steps": {"num_sanity_val_steps": 2},
    "sanity epoch": {"num_sanity_val_steps": -1},
    "gradients in validation": {"inference_mode": False},
    "validation within the epoch": {"val_check_interval": 2},
    "validation over epochs": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "steps": {"max_steps": 7, "max_epochs": -1},
    "anomalies": {"detect_anomaly": True},
    "deterministic": {"deterministic": True},
    "profiler": {"profiler": "simple"},
}


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.filterwarnings("ignore:.*set.*verflow")
@pytest.mark.parametrize("options", LOOPS.values(), ids=LOOPS)
def test_loops(tmp_path: Path, options: dict[str, Any]) -> None:
    plain, _ = assert_twins(tmp_path, **options)
    assert len(plain.steps.losses) == plain.trainer.global_step > 2
    assert_random_works(tmp_path, **options)


@pytest.mark.parametrize("batches", [True, 2])
def test_fast_dev_run(tmp_path: Path, batches: Any) -> None:
    def act(trainer: L.Trainer, module: Any) -> Any:
        trainer.fit(module, loader(), loader(shuffle=False))
        tested = trainer.test(module, loader(shuffle=False), verbose=False)
        return tested, trainer.predict(module, loader(shuffle=False))

    assert_twins(tmp_path, act=act, fast_dev_run=batches)
    found = run(tmp_path, "random", act=act, fast_dev_run=batches)
    assert found.choices
    assert not list(tmp_path.rglob("*.yaml"))


class Bare(Classifier):
    """Logs nothing, which a trainer with ``barebones`` would warn about."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def test_barebones(tmp_path: Path) -> None:
    def act(trainer: L.Trainer, module: Any) -> None:
        trainer.fit(module, loader())

    options = {
        "build": Bare,
        "act": act,
        "barebones": True,
        **dict.fromkeys(("logger", "log_every_n_steps", "num_sanity_val_steps")),
    }
    assert_twins(tmp_path, **options)
    assert_random_works(tmp_path, **options)


class Reloads(Classifier):
    """Another loader, of other batches, every second epoch."""

    loaded = 0

    def train_dataloader(self) -> Any:
        self.loaded += 1
        generator = torch.Generator().manual_seed(self.loaded)
        return loader(generator=generator)

    def val_dataloader(self) -> Any:
        return loader(shuffle=False)


@pytest.mark.parametrize("example", [True, False], ids=["example_input_array", "the first batch"])
def test_loaders_that_are_made_anew(tmp_path: Path, example: bool) -> None:
    """To look at a batch the loader is asked for once more; a loader that counts that needs an example to be given."""

    def build() -> Reloads:
        module = Reloads()
        module.loaded = 0 if example else 100
        module.example_input_array = torch.randn(2, 3, 6, 6) if example else None
        return module

    def act(trainer: L.Trainer, module: Any) -> int:
        trainer.fit(module)
        return module.loaded

    options: dict[str, Any] = {"build": build, "act": act, "max_epochs": 4, "reload_dataloaders_every_n_epochs": 2}
    if example:
        plain, _ = assert_twins(tmp_path, **options)
        assert plain.result == 2
    found = assert_random_works(tmp_path, **options)
    assert found.result == (2 if example else 103)


class Several(Classifier):
    """Two optimizers by hand: the first layers' and the head's, each toggled, with a scheduler and clipping."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for number, optimizer in enumerate(self.optimizers()):
            self.toggle_optimizer(optimizer)
            loss = F.cross_entropy(self(batch[0]), batch[1])
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()
            self.untoggle_optimizer(optimizer)
            self.log(f"loss{number}", loss, prog_bar=True)
        if self.trainer.is_last_batch:
            for scheduler in self.lr_schedulers():
                scheduler.step()

    def configure_optimizers(self) -> Any:
        trunk = torch.optim.SGD(self.net[:7].parameters(), lr=0.05, momentum=0.9)
        head = torch.optim.AdamW(self.net[7:].parameters(), lr=0.01)
        return [trunk, head], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) for optimizer in (trunk, head)]


class Adversarial(Several):
    """Toggled in a block, and each step over two batches."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        steps = batch_idx % 2 == 1
        for optimizer in self.optimizers():
            with optimizer.toggle_model(sync_grad=steps):
                self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]) / 2)
                if steps:
                    optimizer.step()
                    optimizer.zero_grad()


@pytest.mark.parametrize("build", [Several, Adversarial])
def test_several_optimizers_by_hand(tmp_path: Path, build: Any) -> None:
    plain, _ = assert_twins(tmp_path, build=build)
    assert plain.trainer.global_step > 6
    found = assert_random_works(tmp_path, build=build)
    assert all(parameter.requires_grad for parameter in found.module.parameters())


def test_what_the_comparison_looks_at_is_not_always_the_same(tmp_path: Path) -> None:
    """Each fact but those of progress differs where a run differs, or the comparisons above would say nothing."""
    plain, narrow = run(tmp_path).facts(), run(tmp_path, "min").facts()
    for name in ("weights", "buffers", "optimizers", "losses", "metrics"):
        with pytest.raises(AssertionError):
            assert_same(plain[name], narrow[name])
    assert len(plain["losses"]) == len(plain["inputs"]) == 12

    def drawing(trainer: L.Trainer, module: Any) -> None:
        torch.rand(1)
        trainer.fit(module, loader(), loader(shuffle=False))

    drawn = run(tmp_path, act=drawing).facts()
    for name in ("inputs", "drawn"):
        with pytest.raises(AssertionError):
            assert_same(plain[name], drawn[name])


def test_the_callback_may_be_pickled_and_copied_in_the_middle_of_a_run(tmp_path: Path) -> None:
    """It takes nothing of the run along, whose trainer and loops may be anything."""

    class Copies(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            pruning: Any = next(found for found in trainer.callbacks if isinstance(found, ChannelPruning))
            for copied in (pickle.loads(pickle.dumps(pruning)), copy.deepcopy(pruning)):
                assert copied.mutator.current_choices == pruning.mutator.current_choices
                assert copied.mutator is not pruning.mutator
                assert not {"_passes", "_tuned", "_stand_ins", "_slices"} & set(copied.__dict__)

    options = {"validate": ["min"], "recalibrate": 1, "update_inactive": False}
    run(tmp_path, "sandwich", callbacks=lambda: [Copies()], pruning=options, max_steps=2)
