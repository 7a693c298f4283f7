"""Lightning's tuner, and its callbacks: what they suggest, and that the run behind them is as if they hadn't been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader

from lightning_channels import ChannelPruning
from tests.callbacks.nets import UNITS, WIDTHS, Classifier, Watch, images, loader, trainer
from tests.trainer.twins import assert_random_works, assert_twins, run


class Tunable(Classifier):
    """Has what the tuner sets, and its loaders in itself, as the batch-size finder asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.lr, self.batch_size = 0.05, 4

    def train_dataloader(self) -> Any:
        return DataLoader(images(), batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return loader(shuffle=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def find_lr(runner: L.Trainer, module: Any) -> Any:
    found = Tuner(runner).lr_find(module, num_training=12, min_lr=1e-4, max_lr=1.0)
    assert found is not None
    return found.results, found.suggestion(skip_begin=2, skip_end=1), module.lr


def find_batch_size(runner: L.Trainer, module: Any) -> Any:
    return Tuner(runner).scale_batch_size(module, init_val=2, max_trials=2), module.batch_size


def find_both_and_fit(runner: L.Trainer, module: Any) -> Any:
    found = find_batch_size(runner, module), find_lr(runner, module)
    runner.fit(module)
    return found


def fit_alone(runner: L.Trainer, module: Any) -> None:
    runner.fit(module)


ACTS = (find_lr, find_batch_size, find_both_and_fit)
CALLBACKS: dict[str, Callable[[], list[L.Callback]]] = {
    "learning rate": lambda: [LearningRateFinder(1e-4, 1.0, num_training_steps=12)],
    "batch size": lambda: [BatchSizeFinder("binsearch", init_val=2, max_trials=2)],
}
pytestmark = pytest.mark.filterwarnings("ignore:.*lr_find.*", "ignore:.*not compatible with.*")


@pytest.mark.parametrize("act", ACTS)
def test_the_tuner_suggests_the_same(tmp_path: Path, act: Any) -> None:
    plain, _ = assert_twins(tmp_path, build=Tunable, act=act)
    assert plain.result


@pytest.mark.parametrize("last", [False, True], ids=["ours first", "ours last"])
@pytest.mark.parametrize("callbacks", CALLBACKS.values(), ids=CALLBACKS)
def test_the_callbacks_suggest_the_same(tmp_path: Path, callbacks: Any, last: bool) -> None:
    assert_twins(tmp_path, build=Tunable, act=fit_alone, callbacks=callbacks, last=last)


@pytest.mark.parametrize("sampler", ["random", "sandwich"])
def test_it_is_the_widest_that_is_tuned(tmp_path: Path, sampler: str) -> None:
    """Whatever the sampler; and the run behind it draws as if there had been no tuning."""
    plain = run(tmp_path, build=Tunable, act=find_both_and_fit)
    ours = run(tmp_path, sampler, build=Tunable, act=find_both_and_fit)
    assert plain.result == ours.result
    assert plain.trainer.global_step == ours.trainer.global_step
    assert ours.pruning is not None
    assert len(ours.choices) == ours.trainer.global_step
    for number, choices in enumerate(ours.choices):
        epoch, batch = divmod(number, len(ours.choices) // 2)
        assert choices == ours.pruning._drawn(ours.pruning.mutator, epoch, batch)[0]
    assert not list(tmp_path.rglob("*.yaml"))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("callbacks", CALLBACKS.values(), ids=CALLBACKS)
def test_a_run_at_random_widths_behind_it(tmp_path: Path, callbacks: Any) -> None:
    assert_random_works(tmp_path, build=Tunable, act=fit_alone, callbacks=callbacks)


class Widths(Tunable):
    """Writes down which widths it is trained at."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append((self.net[0].out_channels, self.net[3].out_channels))
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("last", [False, True], ids=["ours first", "ours last"])
@pytest.mark.parametrize("callbacks", CALLBACKS.values(), ids=CALLBACKS)
def test_one_subnet_is_tuned_as_it_is_trained(tmp_path: Path, callbacks: Any, last: bool) -> None:
    pruning = {"choices": {UNITS[0]: 3, UNITS[1]: 5}}
    found = run(
        tmp_path, "fixed", build=Widths, act=fit_alone, callbacks=callbacks, last=last, pruning=pruning, max_epochs=1
    )
    assert set(found.module.seen) == {(3, 5)}  # type: ignore[arg-type]


class EachEpoch(LearningRateFinder):
    """Looks for a rate before every epoch, as Lightning's documentation shows it."""

    def on_fit_start(self, *args: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.seen.append("tuning")
        self.lr_find(trainer, pl_module)
        pl_module.seen.append("tuned")


@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize("sampler", ["random", "sandwich"])
def test_tuning_in_the_middle_of_a_run(tmp_path: Path, sampler: str, memory: Any) -> None:
    """It tunes the widest again, in steps of one pass, and the choices of the run are those of one without it."""

    def callbacks() -> list[L.Callback]:
        return [EachEpoch(1e-4, 1e-2, num_training_steps=4, update_attr=False)]

    found = run(tmp_path, sampler, build=Widths, act=fit_alone, callbacks=callbacks, pruning={"memory": memory})
    seen: list[Any] = found.module.seen  # type: ignore[assignment]
    starts = [at for at, what in enumerate(seen) if what == "tuning"]
    tuned = [seen[at + 1 : seen.index("tuned", at)] for at in starts]
    assert tuned == [[(8, 12)] * 4, []]  # in later epochs this Lightning's finder takes no step, with us or without
    assert found.choices == run(tmp_path, sampler, build=Tunable, act=fit_alone).choices


def test_a_run_that_goes_on_tunes_the_widest(tmp_path: Path) -> None:
    """Though its checkpoint was written at another width."""
    first = run(tmp_path, "random", build=Tunable, act=fit_alone, max_epochs=1)
    assert first.pruning is not None
    first.pruning.mutator.set_choices({UNITS[0]: 2})
    first.trainer.save_checkpoint(tmp_path / "narrow.ckpt")
    module, pruning = Widths(), ChannelPruning()
    finder = LearningRateFinder(1e-4, 1e-2, num_training_steps=4, update_attr=False)
    watch = Watch(pruning)
    runner = trainer(tmp_path, pruning, finder, watch, max_epochs=2)
    runner.fit(module, ckpt_path=tmp_path / "narrow.ckpt")
    assert module.seen[:4] == [(8, 12)] * 4
    assert watch.train[0] != WIDTHS


class Breaks(Tunable):
    """Fails in the fourth step."""

    error: Exception = ZeroDivisionError()
    at = 4

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.at -= 1
        if self.at == 0:
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("finder", ["tuner", "callback", "in the middle"])
def test_tuning_that_fails_leaves_nothing(tmp_path: Path, finder: str) -> None:
    """Though Lightning tells no callback but its own that there was an exception."""
    module: Any = Breaks()
    module.seen = []
    callback: dict[str, Any] = {
        "callback": LearningRateFinder(num_training_steps=9),
        "in the middle": EachEpoch(num_training_steps=9),
    }
    pruning = ChannelPruning(sampler="sandwich")
    runner = trainer(tmp_path, pruning, *([callback[finder]] if finder in callback else []))
    with pytest.raises(ZeroDivisionError):
        runner.fit(module) if finder in callback else find_lr(runner, module)
    assert not list(tmp_path.rglob("*.yaml"))
    assert not {"training_step", "setup", "configure_model"} & set(module.__dict__)
    loops = (runner.fit_loop, runner.validate_loop, runner.test_loop, runner.predict_loop)
    assert not any("run" in loop.__dict__ for loop in loops)
    assert pruning.mutator.current_choices == WIDTHS


class Full(Tunable):
    """Has no memory for batches of more than eight."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if len(batch[0]) > 8:
            raise RuntimeError("CUDA out of memory.")
        return super().training_step(batch, batch_idx)


def test_batches_that_do_not_fit(tmp_path: Path) -> None:
    def act(runner: L.Trainer, module: Any) -> Any:
        runner.fit(module)
        return module.batch_size

    options: dict[str, Any] = {"build": Full, "act": act, "callbacks": lambda: [BatchSizeFinder(init_val=8)]}
    plain, _ = assert_twins(tmp_path, **options)
    assert plain.result == 8
    assert assert_random_works(tmp_path, **options).result == plain.result


@pytest.mark.parametrize("method", ["validate", "test", "predict"])
def test_the_batch_size_of_an_evaluation(tmp_path: Path, method: str) -> None:
    """The width that is evaluated is the one that is tried out."""

    class Evaluates(Widths):
        def val_dataloader(self) -> Any:
            return DataLoader(images(), batch_size=self.batch_size)

        test_dataloader = predict_dataloader = val_dataloader

        def forward(self, x: Any) -> Any:
            self.seen.append((self.net[0].out_channels, self.net[3].out_channels))
            return super().forward(x)

    module = Evaluates()
    module.example_input_array = torch.randn(2, 3, 6, 6)
    pruning = ChannelPruning(eval_choices={UNITS[0]: 2})
    runner = trainer(tmp_path, pruning, BatchSizeFinder(init_val=2, max_trials=2))
    module.seen.clear()
    getattr(runner, method)(module, **({} if method == "predict" else {"verbose": False}))
    assert module.batch_size == 4
    assert set(module.seen[-8:]) == {(2, 12)}
    assert len(module.seen) > 8
