"""``update_inactive=False`` in a run: what no batch of a step used is bit by bit as it was before the step."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.nn import functional as F

from lightning_channels import ChannelPruning
from tests.callbacks import ddp, inactive_ddp
from tests.callbacks.nets import UNITS, WIDTHS, Classifier, loader, trainer
from tests.callbacks.ranks import found_by_ranks, run_ranks
from tests.invariants import active_parts

SGD = (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1})
ADAMW = (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True})


class Module(Classifier):
    def __init__(self, optimizer: Any = SGD) -> None:
        super().__init__()
        self.optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        cls, arguments = self.optimizer
        return cls(self.parameters(), **arguments)


class Outside(L.Callback):
    """Compares each step's values and state outside of what its batches used with those before it."""

    def __init__(self) -> None:
        self.used: dict[str, Tensor] = {}
        self.before: dict[str, Any] | None = None
        self.same: list[bool] = []
        self.sizes: list[int] = []

    def values(self, module: L.LightningModule, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
        return {
            name: {
                "value": parameter.detach().clone(),
                **{key: held.clone() for key, held in optimizer.state.get(parameter, {}).items() if held.dim()},
            }
            for name, parameter in module.named_parameters()
        }

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        parameters = dict(pl_module.named_parameters())
        for name, dims in active_parts(pl_module):
            used = torch.ones(parameters[name].shape, dtype=torch.bool)
            for dim, kept in dims:
                line = torch.zeros(used.shape[dim], dtype=torch.bool)
                line[kept] = True
                used &= line.view([-1 if other == dim else 1 for other in range(used.dim())])
            self.used[name] = self.used[name] | used if name in self.used else used

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        assert len(optimizer._optimizer_step_post_hooks) == (0 if trainer.callbacks[0].update_inactive else 1)
        self.before = self.values(pl_module, optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self.before is None:
            return
        now = self.values(pl_module, trainer.optimizers[0])
        for name, used in self.used.items():
            for key, tensor in now[name].items():
                old = self.before[name].get(key, torch.zeros_like(tensor))
                self.same.append(torch.equal(tensor[~used], old[~used]))
                if key == "value":  # decay alone moves each of them
                    assert bool((tensor != old)[used].all()), name
        self.sizes.append(sum(int((~used).sum()) for used in self.used.values()))
        self.used, self.before = {}, None


@pytest.mark.parametrize("optimizer", [SGD, ADAMW], ids=["sgd", "adamw"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"accumulate_grad_batches": 4},  # six batches an epoch: the second step has two
        {"gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.1, "accumulate_grad_batches": 2, "val_check_interval": 1},
        {"precision": "bf16-mixed"},
    ],
    ids=str,
)
def test_a_step_leaves_alone_what_its_batches_left_out(tmp_path: Path, optimizer: Any, arguments: dict) -> None:
    pruning, outside = ChannelPruning(seed=6, update_inactive=False), Outside()
    module = Module(optimizer)
    run = trainer(tmp_path, pruning, outside, max_epochs=2, **arguments)
    run.fit(module, loader(), loader(shuffle=False))
    assert all(outside.same)
    assert len(outside.sizes) == {1: 12, 2: 6, 4: 4}[run.accumulate_grad_batches]
    assert sum(outside.sizes) > 100
    assert not run.optimizers[0]._optimizer_step_post_hooks


def test_by_default_an_optimizer_moves_everything(tmp_path: Path) -> None:
    states = []
    for given in ({}, {"update_inactive": True}):
        outside, module = Outside(), Module()
        L.seed_everything(1, verbose=False)
        trainer(tmp_path, ChannelPruning(seed=6, **given), outside).fit(module, loader())
        assert not all(outside.same)
        states.append(module.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_at_the_widest_it_changes_nothing(tmp_path: Path) -> None:
    states = []
    for update in (True, False):
        L.seed_everything(1, verbose=False)
        module = Module(ADAMW)
        run = trainer(tmp_path, ChannelPruning(sampler="max", update_inactive=update))
        run.fit(module, loader())
        states.append([module.state_dict(), run.optimizers[0].state_dict()["state"]])
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)


def test_a_subnet_that_trains_alone_is_all_that_changes(tmp_path: Path) -> None:
    pruning, module = ChannelPruning(choices={UNITS[0]: 3, UNITS[1]: 5}, update_inactive=False), Module()
    before = copy.deepcopy(module.state_dict())
    trainer(tmp_path, pruning, max_epochs=2).fit(module, loader())
    weight = module.net[3]._parameters["weight"]
    inside = torch.zeros_like(weight, dtype=torch.bool)
    inside[:5, :3] = True
    assert torch.equal(weight[~inside], before["net.3.weight"][~inside])
    assert bool((weight != before["net.3.weight"])[inside].all())


def test_only_the_callbacks_own_submodule_is_held(tmp_path: Path) -> None:
    class Two(Module):
        def __init__(self) -> None:
            super().__init__()
            self.other = Classifier().net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x) + self.other(x)

    module = Two()
    free, held = ChannelPruning(module="other", sampler="min"), ChannelPruning(module="net", update_inactive=False)
    held.sampler = free.sampler
    before = copy.deepcopy(module.state_dict())
    trainer(tmp_path, free, held).fit(module, loader())
    assert torch.equal(module.net[0]._parameters["weight"][1:], before["net.0.weight"][1:])
    assert bool((module.other[0]._parameters["weight"] != before["other.0.weight"])[1:].all())


def test_widths_that_the_training_step_sets_are_seen(tmp_path: Path) -> None:
    class Sets(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            pruning.mutator.set_choices({UNITS[0]: 6})
            return super().training_step(batch, batch_idx)

    pruning, module = ChannelPruning(sampler="min", update_inactive=False), Sets()
    before = module.net[0].weight.detach().clone()
    trainer(tmp_path, pruning).fit(module, loader())
    changed = (module.net[0]._parameters["weight"] != before).flatten(1).all(1)
    assert changed.tolist() == [True] * 6 + [False] * 2


class Overflow(Module):
    """The third step's gradients aren't finite."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]).float(), batch[1])
        return loss * float("inf") if batch_idx == 2 else loss


def test_a_step_that_the_scaler_skips_leaves_nothing_behind(tmp_path: Path) -> None:
    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            weights.append(pl_module.net[0]._parameters["weight"].detach().clone())
            held.append(bool(pruning._slices._held))

    def sampler(mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Any:
        return mutator.sample_choices("max" if batch_idx in (0, 2) else "min")

    weights: list[Tensor] = []
    held: list[bool] = []
    pruning = ChannelPruning(sampler=sampler, update_inactive=False)  # all are active in the step that is skipped
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    run = trainer(tmp_path, pruning, Watch(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    run.fit(Overflow(), loader())
    assert torch.equal(weights[1], weights[2])
    assert held == [False, False, True, False, False, False]
    for last, now in pairwise(weights[2:]):
        assert torch.equal(now[1:], last[1:])
        assert not torch.equal(now[:1], last[:1])


def test_a_training_step_without_a_loss_holds_nothing_back(tmp_path: Path) -> None:
    class Skips(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx % 2 else super().training_step(batch, batch_idx)

    pruning, module = ChannelPruning(update_inactive=False), Skips()
    with pytest.warns(UserWarning, match="returned `None`"):
        trainer(tmp_path, pruning).fit(module, loader())
    assert pruning._slices is None


# --- what it leaves behind -------------------------------------------------------------------------------------------


def test_after_an_exception_no_hook_is_left(tmp_path: Path) -> None:
    class Breaks(Module):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if self.trainer.global_step == 2:
                raise ZeroDivisionError

    pruning, module = ChannelPruning(update_inactive=False), Breaks()
    run = trainer(tmp_path, pruning)
    with pytest.raises(ZeroDivisionError):
        run.fit(module, loader())
    assert not run.optimizers[0]._optimizer_step_post_hooks
    assert pruning._slices is pruning._hook is pruning._stepping is None
    trainer(tmp_path, pruning).fit(Module(), loader())


def test_copies_and_checkpoints_are_those_of_a_run_without_it(tmp_path: Path) -> None:
    class Copies(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            optimizer = copy.deepcopy(trainer.optimizers[0])
            assert not optimizer._optimizer_step_post_hooks
            assert b"InactiveSlices" not in pickle.dumps(trainer.optimizers[0])
            assert not any(module._forward_pre_hooks or module._forward_hooks for module in pl_module.modules())
            copy.deepcopy(pl_module)
            again = pickle.loads(pickle.dumps(pruning))
            assert again.update_inactive is False
            assert again._slices is again._hook is again._stepping is None
            trainer.save_checkpoint(tmp_path / "step.ckpt")

    pruning = ChannelPruning(update_inactive=False)
    run = trainer(tmp_path, pruning, Copies(), max_steps=2)
    run.fit(Module(), loader())
    assert b"InactiveSlices" not in (tmp_path / "step.ckpt").read_bytes()
    ours = torch.load(tmp_path / "step.ckpt", weights_only=True)
    run = trainer(tmp_path, ChannelPruning(), max_steps=2)
    run.fit(Module(), loader())
    run.save_checkpoint(tmp_path / "plain.ckpt")
    plain = torch.load(tmp_path / "plain.ckpt", weights_only=True)
    assert ours.keys() == plain.keys()
    assert ours["callbacks"] == {**plain["callbacks"], "ChannelPruning": ours["callbacks"]["ChannelPruning"]}
    kinds = [{key: set(state) for key, state in c["optimizer_states"][0]["state"].items()} for c in (ours, plain)]
    assert kinds[0] == kinds[1]


def test_a_resumed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def fit(epochs: int, **kwargs: Any) -> Any:
        module = Module(ADAMW)
        module.net[8].p = 0.0
        run = trainer(tmp_path, ChannelPruning(seed=6, update_inactive=False), max_epochs=epochs)
        run.fit(module, loader(shuffle=False), **kwargs)
        return module, run

    whole, _ = fit(2)
    fit(1)[1].save_checkpoint(tmp_path / "one.ckpt")
    resumed, _ = fit(2, ckpt_path=tmp_path / "one.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_another_optimizer_in_the_middle_of_a_run(tmp_path: Path) -> None:
    class Swaps(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 3:
                first.append(trainer.optimizers[0])
                trainer.strategy.optimizers = [Module(ADAMW).optimizer[0](pl_module.parameters(), weight_decay=0.1)]

    first: list[Any] = []
    pruning, outside = ChannelPruning(seed=6, update_inactive=False), Outside()
    trainer(tmp_path, pruning, outside, Swaps()).fit(Module(), loader())
    assert all(outside.same)
    assert not first[0]._optimizer_step_post_hooks


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_right_is_refused_before_the_first_step(tmp_path: Path) -> None:
    class Manual(Module):
        automatic_optimization = False

    for module, message in (
        (Manual(), "ChannelPruning: update_inactive=False needs automatic optimization"),
        (Module((torch.optim.LBFGS, {})), "ChannelPruning: update_inactive=False: LBFGS can't leave inactive"),
    ):
        with pytest.raises(MisconfigurationException, match=message):
            trainer(tmp_path, ChannelPruning(update_inactive=False)).fit(module, loader())
    run = trainer(tmp_path, ChannelPruning(update_inactive=False))
    run.strategy.__class__ = type("Own", (type(run.strategy),), {"handles_gradient_accumulation": True})
    with pytest.raises(MisconfigurationException, match="doesn't work with Own, which steps by itself"):
        run.fit(Module(), loader())
    with pytest.raises(MisconfigurationException, match="update_inactive must be true or false, got 0"):
        ChannelPruning(update_inactive=0)
    pruning = ChannelPruning(update_inactive=False)
    run = trainer(tmp_path, pruning)
    run.test(Manual(), loader(shuffle=False), verbose=False)  # no step, nothing to refuse
    assert pruning.mutator.current_choices == WIDTHS


# --- several processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inactive_ddp")
    run_ranks("tests.callbacks.inactive_ddp", folder)
    return folder


def test_two_processes_step_like_a_loop_over_slices(folder: Path) -> None:
    first, second = found_by_ranks(folder)
    assert all(torch.equal(first["weights"][name], second["weights"][name]) for name in first["weights"])
    net = ddp.mlp()
    momenta = {name: torch.zeros_like(parameter) for name, parameter in net.named_parameters()}
    x, y = ddp.data()
    size = ddp.BATCH * ddp.RANKS
    assert inactive_ddp.Module().configure_optimizers().defaults["weight_decay"] == 0.01
    for step, choices in enumerate(first["choices"]):
        a, b = choices.values()
        union = slice(step * size, (step + 1) * size)
        full = dict(net.named_parameters())
        at = {
            "0.weight": (slice(a),),
            "0.bias": (slice(a),),
            "2.weight": (slice(b), slice(a)),
            "2.bias": (slice(b),),
            "4.weight": (slice(None), slice(b)),
            "4.bias": (slice(None),),
        }
        p = {name: full[name].detach()[index].clone().requires_grad_() for name, index in at.items()}
        hidden = F.relu(F.linear(x[union], p["0.weight"], p["0.bias"]))
        hidden = F.relu(F.linear(hidden, p["2.weight"], p["2.bias"]))
        F.cross_entropy(F.linear(hidden, p["4.weight"], p["4.bias"]), y[union]).backward()
        with torch.no_grad():
            for name, index in at.items():
                momentum = 0.9 * momenta[name][index] + p[name].grad + 0.01 * p[name]
                momenta[name][index] = momentum
                full[name][index] = p[name] - 0.1 * momentum
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(first["weights"][f"net.{name}"], tensor, rtol=0, atol=1e-6)
