"""Callbacks that average weights, before and behind ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn

from lightning_channels import ChannelPruning, recalibrate_batch_norm
from lightning_channels.dynamic_ops import is_dynamic
from tests.callbacks.nets import UNITS, Classifier, loader, trainer
from tests.trainer.twins import Run, assert_random_works, assert_twins, assert_usable, run


def swa() -> list[L.Callback]:
    return [StochasticWeightAveraging(0.02, swa_epoch_start=2, annealing_epochs=2)]


AVERAGING: dict[str, Callable[[], list[L.Callback]]] = {
    "ema": lambda: [EMAWeightAveraging(decay=0.5)],
    "ema of parameters": lambda: [EMAWeightAveraging(decay=0.5, use_buffers=False)],
    "mean": lambda: [WeightAveraging()],
    "swa": swa,
}
ORDERS = pytest.mark.parametrize("last", [False, True], ids=["ours first", "ours last"])
SLIMMABLE = {
    "type": "SlimmableChannelMutator",
    "channel_unit_cfg": {
        "type": "SlimmableChannelUnit",
        "units": {
            UNITS[0]: {"init_args": {"candidate_choices": [3, 8]}},
            UNITS[1]: {"init_args": {"candidate_choices": [5, 12]}},
        },
    },
}
BATCHES = list(loader(shuffle=False))


def average_of(found: Run) -> nn.Module:
    (averaging,) = found.callbacks
    average: Any = averaging._average_model  # type: ignore[attr-defined]
    return getattr(average, "module", average)


@ORDERS
@pytest.mark.parametrize("callbacks", AVERAGING.values(), ids=AVERAGING)
def test_at_full_width_the_average_is_the_same(tmp_path: Path, callbacks: Any, last: bool) -> None:
    plain, ours = assert_twins(tmp_path, callbacks=callbacks, last=last, max_epochs=4, num_sanity_val_steps=1)
    own = dict(average_of(ours).named_parameters())
    assert all(torch.equal(parameter, own[name]) for name, parameter in average_of(plain).named_parameters())


@ORDERS
@pytest.mark.parametrize("callbacks", AVERAGING.values(), ids=AVERAGING)
def test_at_random_widths(tmp_path: Path, callbacks: Any, last: bool) -> None:
    """The average is of all channels, ends up in the module, and the module can be narrow and exported."""
    found = assert_random_works(tmp_path, callbacks=callbacks, last=last, max_epochs=4)
    average, own = dict(average_of(found).named_parameters()), dict(found.module.named_parameters())
    assert list(average) == list(own)
    assert all(torch.equal(parameter, own[name]) for name, parameter in average.items())


def by_definition(seen: list[dict[str, Tensor]], decay: float = 0.5) -> dict[str, Tensor]:
    average = dict(seen[0])
    for weights in seen[1:]:
        average = {name: torch.lerp(average[name], tensor, 1 - decay) for name, tensor in weights.items()}
    return average


def test_the_average_is_that_of_the_weights_of_all_steps(tmp_path: Path) -> None:
    class Weights(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            seen.append({name: tensor.detach().clone() for name, tensor in pl_module.named_parameters()})

    seen: list[dict[str, Tensor]] = []
    found = run(tmp_path, "random", callbacks=lambda: [EMAWeightAveraging(decay=0.5), Weights()])
    expected = by_definition(seen)
    for name, tensor in found.module.named_parameters():
        torch.testing.assert_close(tensor, expected[name])


class Final(StochasticWeightAveraging):
    """Keeps the averaged weights: its last epoch ends with a step along what gradients are left, with us or without."""

    def __init__(self) -> None:
        super().__init__(0.02, swa_epoch_start=2, annealing_epochs=2)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self.weights = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}


def averaged_in_order(path: Path, sampler: str, **options: Any) -> tuple[Run, Callable[[list[Any]], None]]:
    """A run over the batches in their order, and a check that statistics are those of these batches."""

    def act(runner: L.Trainer, module: L.LightningModule) -> None:
        runner.fit(module, loader(shuffle=False))

    found = run(path, sampler, act=act, callbacks=lambda: [Final()], max_epochs=4, **options)

    def check(batches: list[Any]) -> None:
        (averaging,) = found.callbacks
        again: Any = copy.deepcopy(found.module)
        again.load_state_dict(averaging.weights)  # type: ignore[attr-defined]
        recalibrate_batch_norm(again.net, batches)
        net: Any = found.module.net
        for index in (1, 4):
            torch.testing.assert_close(net[index].running_mean, again.net[index].running_mean)
            torch.testing.assert_close(net[index].running_var, again.net[index].running_var)

    return found, check


@ORDERS
@pytest.mark.parametrize("sampler", ["random", "min", "sandwich"])
def test_stochastic_averaging_ends_with_the_statistics_of_the_widest(tmp_path: Path, sampler: str, last: bool) -> None:
    """Its last epoch computes them for what the module is left at; at the sampler's widths they would fit nothing."""
    found, check = averaged_in_order(tmp_path, sampler, last=last)
    check(BATCHES)
    assert found.pruning is not None
    assert_usable(found.module, found.pruning)


def test_stochastic_averaging_of_one_subnet(tmp_path: Path) -> None:
    fixed = {UNITS[0]: 3, UNITS[1]: 5}
    found, check = averaged_in_order(tmp_path, "fixed", pruning={"choices": fixed})
    check(BATCHES)
    assert found.module.net[1].running_mean.shape == (3,)


@ORDERS
def test_stochastic_averaging_of_slimmable_subnets(tmp_path: Path, last: bool) -> None:
    """Each subnet's own norms get statistics, of the batches whose turn it is."""
    found, check = averaged_in_order(tmp_path, "random", last=last, pruning={"mutator": SLIMMABLE})
    assert found.pruning is not None
    mutator: Any = found.pruning.mutator
    for subnet in range(2):
        mutator.set_choices(mutator.subnets[subnet])
        check(BATCHES[subnet::2])


@ORDERS
@pytest.mark.parametrize("callbacks", AVERAGING.values(), ids=AVERAGING)
def test_tensors_that_preparing_adds_are_averaged(tmp_path: Path, callbacks: Any, last: bool) -> None:
    """Averages are paired with the module's tensors by their order; switchable norms have tensors more."""
    pruning = {"mutator": SLIMMABLE}
    found = run(tmp_path, "random", callbacks=callbacks, last=last, pruning=pruning, max_epochs=4)
    average, own = dict(average_of(found).named_parameters()), dict(found.module.named_parameters())
    assert list(average) == list(own)
    assert any("candidates" in name for name in own)
    assert all(torch.equal(parameter, own[name]) for name, parameter in average.items())
    assert all(tensor.isfinite().all() for tensor in found.module.state_dict().values())


@ORDERS
@pytest.mark.parametrize("mutator", [None, SLIMMABLE], ids=["shared norms", "switchable norms"])
def test_a_checkpoint_of_an_average(tmp_path: Path, mutator: Any, last: bool) -> None:
    """It can be tested, continued, and read without the averaging callback."""

    def callbacks() -> list[L.Callback]:
        return [EMAWeightAveraging(decay=0.5), ModelCheckpoint(tmp_path, filename="one", every_n_train_steps=6)]

    pruning = {"mutator": mutator}
    whole = run(tmp_path, "random", callbacks=callbacks, last=last, pruning=pruning, max_epochs=1)
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert (tmp_path / "one.structure.yaml").exists()
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(checkpoint["state_dict"][name], tensor), name
    assert not torch.equal(checkpoint["state_dict"]["net.0.weight"], checkpoint["current_model_state"]["net.0.weight"])

    fresh = Classifier()
    results = trainer(tmp_path, ChannelPruning(mutator=mutator)).test(
        fresh, loader(shuffle=False), ckpt_path=tmp_path / "one.ckpt", verbose=False
    )
    assert is_dynamic(fresh.net[0])
    assert results == trainer(tmp_path).test(whole.module, loader(shuffle=False), verbose=False)

    def resume(runner: L.Trainer, module: L.LightningModule) -> None:
        runner.fit(module, loader(), ckpt_path=tmp_path / "one.ckpt")

    more = run(tmp_path, "random", act=resume, callbacks=callbacks, last=last, pruning=pruning, max_epochs=2)
    assert more.trainer.global_step == 12
    assert len(more.choices) == 6
