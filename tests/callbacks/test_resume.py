"""Going on from a checkpoint: what is computed then is what would have been computed."""

import random
from functools import partial
from typing import ClassVar

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_channels import ChannelPruning
from lightning_channels.callbacks import _random_state
from lightning_channels.callbacks._resume import RESUME
from tests.callbacks.nets import UNITS, Classifier, images, trainer
from tests.callbacks.nets import loader as plain_loader
from tests.callbacks.noise import BATCHES, EPOCHS, Noisy, loader, saving, train

ENDS = ["6", "end6", "12", "end12"]
WITHIN = ["2", "9"]

# the loader, arguments of the trainer and of the callback, the checkpoints that are resumed from exactly
RUNS = {
    "by epoch": (partial(loader, stateful=False, by_epoch=True), {}, {}, ENDS),
    "by epoch, workers": (partial(loader, stateful=False, by_epoch=True, num_workers=1), {}, {}, ["6", "end12"]),
    "shuffled": (partial(loader, stateful=False), {}, {}, ENDS),
    "stateful": (loader, {}, {}, WITHIN + ENDS),
    "stateful by epoch": (partial(loader, by_epoch=True), {}, {}, WITHIN + ENDS),
    "stateful, workers": (partial(loader, data=images(24), num_workers=1), {}, {}, ["9", "6", "end12"]),
    "accumulated": (loader, {"accumulate_grad_batches": 2}, {}, ["1", "5", "3", "end6"]),
    "by steps": (loader, {"max_steps": EPOCHS * BATCHES, "max_epochs": -1}, {}, ["9", "12", "end12"]),
    "by steps and epoch": (
        partial(loader, stateful=False, by_epoch=True),
        {"max_steps": EPOCHS * BATCHES, "max_epochs": -1},
        {},
        ["12", "end12"],
    ),
    "sandwich": (loader, {}, {"sampler": "sandwich"}, ["9", "end12"]),
    "strongest channels": (loader, {}, {"unit": "l1", "update_inactive": False}, ["9", "12"]),
    "sandwich of the strongest": (loader, {}, {"unit": "l1", "sampler": "sandwich"}, ["9"]),
    "part of the batches": (partial(loader, by_epoch=True), {"limit_train_batches": 4}, {}, ["6", "4", "end8"]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, name):
    make, arguments, options, checkpoints = RUNS[name]
    run = partial(train, **arguments)
    straight = run(tmp_path / "diary", make(), *saving(tmp_path), seed=1, pruning=ChannelPruning(seed=5, **options))
    per_epoch = arguments.get("limit_train_batches", BATCHES)
    assert [entry["step"][:2] for entry in straight] == [[e, b] for e in range(EPOCHS) for b in range(per_epoch)]
    assert len({entry["weights"] for entry in straight}) == len(straight)
    for checkpoint in checkpoints:
        path = tmp_path / f"{checkpoint}.ckpt"
        pruning = ChannelPruning(seed=5, **options)
        resumed = run(tmp_path / f"diary{checkpoint}", make(), seed=2, checkpoint=path, pruning=pruning)
        assert 0 < len(resumed) < len(straight)
        assert resumed == straight[-len(resumed) :], checkpoint


class Prunes(L.Callback):
    """Ranks at one step and drops channels at another one, in whatever way; what is kept is the checkpoint's to say."""

    def __init__(self, pruning):
        self.pruning = pruning

    def on_train_batch_start(self, trainer, *args):
        first, second = self.pruning.mutator.mutable_units
        if trainer.global_step == 3:
            first.rank([3, 1, 4, 1, 5, 9, 2, 6])
            self.pruning.mutator.set_choices({first.name: 5})
            second.keep([0, 2, 3, 5, 7, 11])
        if trainer.global_step == 8:
            first.current_choice = 3


@pytest.mark.parametrize("checkpoint", [2, 4, 9, 12])
def test_a_net_that_is_being_pruned_goes_on_with_its_channels(tmp_path, checkpoint):
    def run(name, *callbacks, **kwargs):
        pruning = ChannelPruning(sampler=lambda mutator, **_: {}, eval_choices="current")
        return train(tmp_path / name, loader(), Prunes(pruning), *callbacks, pruning=pruning, **kwargs)

    straight = run("diary", *saving(tmp_path), seed=1)
    resumed = run("resumed", seed=2, checkpoint=tmp_path / f"{checkpoint}.ckpt")
    assert resumed == straight[checkpoint:]
    assert straight[4]["kept"] == {UNITS[0]: [0, 2, 4, 5, 7], UNITS[1]: [0, 2, 3, 5, 7, 11]}
    assert straight[-1]["kept"] == {UNITS[0]: [4, 5, 7], UNITS[1]: [0, 2, 3, 5, 7, 11]}


def test_choices_go_on_mid_epoch_with_any_loader(tmp_path):
    data = partial(loader, stateful=False)
    straight = train(tmp_path / "diary", data(), *saving(tmp_path), seed=1, pruning=ChannelPruning(seed=5))
    for checkpoint, done in (("2", 2), ("9", 9)):
        path = tmp_path / f"{checkpoint}.ckpt"
        resumed = train(tmp_path / f"d{done}", data(), seed=2, checkpoint=path, pruning=ChannelPruning(seed=5))
        expected = straight[done:]
        assert [e["step"] for e in resumed] == [e["step"] for e in expected]
        assert [e["choices"] for e in resumed] == [e["choices"] for e in expected]
        assert [e["weights"] for e in resumed] != [e["weights"] for e in expected]


class FromCheckpoint(L.Callback):
    """Goes on from the checkpoint's random state without us."""

    def __init__(self, path):
        self.state = torch.load(path, weights_only=True)[RESUME]["ranks"][0]["random"]

    def on_train_start(self, trainer, pl_module):
        _random_state.set_back(self.state, torch.device("cpu"))


@pytest.mark.parametrize("exact", [True, False])
def test_another_loader_mid_epoch_is_as_without_us_at_the_widest(tmp_path, exact):
    data = partial(loader, stateful=False)
    train(tmp_path / "diary", data(), *saving(tmp_path), seed=1, pruning=ChannelPruning(sampler="max"))
    path = tmp_path / "9.ckpt"
    with_us = train(
        tmp_path / "with",
        data(),
        seed=2,
        checkpoint=path,
        pruning=ChannelPruning(sampler="max", exact_resume=exact),
    )
    own = [FromCheckpoint(path)] if exact else []
    without = train(tmp_path / "without", data(), *own, seed=2, checkpoint=path)
    assert len(without) == 9
    assert [e["weights"] for e in with_us] == [e["weights"] for e in without]


def test_a_checkpoint_of_a_validation_is_resumed_from_exactly(tmp_path):
    best = ModelCheckpoint(tmp_path, "{step}", monitor="val_loss", save_top_k=-1, auto_insert_metric_name=False)
    validation = partial(plain_loader, shuffle=True)
    arguments = {"val_check_interval": 3, "num_sanity_val_steps": 2}

    def run(name, *callbacks, **kwargs):
        pruning = ChannelPruning(seed=5, validate=["min", 0.5], recalibrate=2)
        kwargs |= arguments | {"pruning": pruning, "validation": validation()}
        return train(tmp_path / name, loader(), *callbacks, **kwargs)

    straight = run("diary", best, seed=1)
    for done in (3, 9, 12):
        resumed = run(f"diary{done}", seed=2, checkpoint=tmp_path / f"{done}.ckpt")
        assert resumed == straight[done:], done


def test_a_split_that_the_loader_draws_is_not_another_one(tmp_path):
    class Splitting(Noisy):
        def train_dataloader(self):
            self.part = torch.randperm(24)[:12].tolist()
            return loader(data=torch.utils.data.Subset(images(24), self.part))

    parts = []
    for checkpoint in (None, tmp_path / "end3.ckpt"):
        L.seed_everything(1, verbose=False)
        module = Splitting()
        callbacks = saving(tmp_path) if checkpoint is None else []
        trainer(tmp_path, ChannelPruning(), *callbacks, max_epochs=2).fit(module, ckpt_path=checkpoint)
        parts.append(module.part)
    assert parts[0] == parts[1]


def test_a_tuner_that_tries_a_few_steps_is_no_resume(tmp_path):
    class Tuned(Noisy):
        lr = 0.05

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    weights = []
    for exact in (True, False):
        L.seed_everything(1, verbose=False)
        module, finder = Tuned(), LearningRateFinder(num_training_steps=3, early_stop_threshold=None)
        run = trainer(tmp_path, ChannelPruning(exact_resume=exact), finder, max_epochs=2)
        run.fit(module, loader(stateful=False))
        weights.append(module.state_dict())
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


def test_the_state_is_small_plain_and_comes_back(tmp_path):
    sizes = []
    for exact in (True, False):
        run = trainer(tmp_path, ChannelPruning(exact_resume=exact), max_steps=2)
        run.fit(Classifier(), plain_loader())
        run.save_checkpoint(tmp_path / f"{exact}.ckpt")
        sizes.append((tmp_path / f"{exact}.ckpt").stat().st_size)
    plain = trainer(tmp_path, max_steps=2)
    plain.fit(Classifier(), plain_loader())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    assert 0 < sizes[0] - sizes[1] < 20_000
    assert sizes[0] - (tmp_path / "plain.ckpt").stat().st_size < 200 * 1024
    assert RESUME not in torch.load(tmp_path / "False.ckpt", weights_only=True)
    random.gauss(0, 1)
    before, state = states(), _random_state.get(torch.device("cpu"))
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    assert states() != before
    _random_state.set_back(state, torch.device("cpu"))
    assert states() == before


@pytest.mark.parametrize(("device", "where"), [("cuda:1", [torch.device("cuda:1")]), ("mps", [])])
def test_the_devices_generator_is_saved_with_it(monkeypatch, device, where):
    """A stand-in for the device's module: which functions are called with what."""

    class Module:
        state = torch.arange(4, dtype=torch.uint8)
        calls: ClassVar[list] = []

        def get_rng_state(*given):
            Module.calls.append(list(given))
            return Module.state

        def set_rng_state(state, *given):
            Module.calls.append([state, *given])

    monkeypatch.setattr(torch, "get_device_module", lambda device: Module)
    device = torch.device(device)
    state = _random_state.get(device)
    _random_state.set_back(state, device)
    _random_state.set_back(state, torch.device("cpu"))
    assert Module.calls == [where, [Module.state, *where]]


def test_several_callbacks_save_one_state(tmp_path):
    class Two(Classifier):
        def __init__(self):
            super().__init__()
            self.other = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 4))

        def forward(self, x):
            return self.other(self.net(x))

    def run(checkpoint, name):
        pruning = [ChannelPruning(module="net"), ChannelPruning(module="other")]
        return trainer(tmp_path, *pruning, *saving(tmp_path / name), max_epochs=2), Two()

    for checkpoint, name in ((None, "one"), (tmp_path / "one" / "4.ckpt", "two")):
        L.seed_everything(1 if checkpoint is None else 2, verbose=False)
        fitted, module = run(checkpoint, name)
        fitted.fit(module, loader(), ckpt_path=checkpoint)
    one, two = (torch.load(tmp_path / name / "end12.ckpt", weights_only=True) for name in ("one", "two"))
    assert all(torch.equal(tensor, two["state_dict"][key]) for key, tensor in one["state_dict"].items())


@pytest.mark.parametrize(
    "broken",
    [
        {"world_size": 1},
        {"world_size": 1, "ranks": [{"random": {"python": 3}}]},
        {"world_size": 1, "ranks": [{"random": None, "code": "x"}]},
    ],
)
def test_a_broken_state_is_refused(tmp_path, broken):
    run = trainer(tmp_path, ChannelPruning(), max_steps=2)
    run.fit(Classifier(), plain_loader())
    run.save_checkpoint(tmp_path / "some.ckpt")
    checkpoint = torch.load(tmp_path / "some.ckpt", weights_only=True)
    torch.save({**checkpoint, RESUME: broken}, tmp_path / "some.ckpt")
    before = states()
    with pytest.raises(MisconfigurationException, match=r"Resume with exact_resume=False"):
        trainer(tmp_path, ChannelPruning(), max_epochs=2).fit(
            Classifier(), plain_loader(), ckpt_path=tmp_path / "some.ckpt"
        )
    assert states()[0] == before[0]
    run = trainer(tmp_path, ChannelPruning(exact_resume=False), max_epochs=2)
    run.fit(Classifier(), plain_loader(), ckpt_path=tmp_path / "some.ckpt")
    assert run.current_epoch == 2


def test_a_loop_has_its_own_methods_back_after_an_error(tmp_path):
    train(tmp_path / "diary", loader(), *saving(tmp_path), seed=1, pruning=ChannelPruning(), max_epochs=1)

    class Failing(Noisy):
        def train_dataloader(self):
            raise RuntimeError("no data")

    run = trainer(tmp_path, ChannelPruning(example_inputs=torch.randn(2, 3, 6, 6)), max_epochs=2)
    with pytest.raises(RuntimeError, match="no data"):
        run.fit(Failing(), ckpt_path=tmp_path / "2.ckpt")
    assert not {"setup_data", "_load_combined_loader_states"} & set(run.fit_loop.__dict__)
