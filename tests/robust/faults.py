"""A run that fails at a chosen place, and what it may leave behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_channels.dynamic_ops.state import STATE
from lightning_channels.mutators.preparation import MUTATOR
from tests.callbacks.nets import conv_net, images


class Fault:
    """Raises when a place is reached for the n-th time, once it is armed."""

    def __init__(self, place: str = "", time: int = 1, error: type[BaseException] = RuntimeError) -> None:
        self.place, self.left, self.error = place, time, error
        self.happened = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Fault:
        return self  # a copy of the module counts on

    def at(self, place: str) -> None:
        if place == self.place:
            self.left -= 1
            if self.left == 0:
                self.happened = True
                raise self.error(f"on purpose, in {place}")


class Net(nn.Module):
    """Says whether its forward is narrow, and is passed from the outside."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.body = conv_net(dropout=0.0)
        self.__dict__["fault"] = fault

    def forward(self, x: Tensor) -> Tensor:
        self.fault.at("forward")
        if self.body[0].out_channels < 8:
            self.fault.at("narrow forward")
        return self.body(x)


class Data(TensorDataset):
    fault: Fault

    def __getitem__(self, index: int) -> Any:
        self.fault.at("loader")
        return super().__getitem__(index)


class Failing(L.LightningModule):
    """Reaches places in all that it defines."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = Net(fault)
        self.__dict__["fault"] = fault

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def setup(self, stage: str) -> None:
        self.fault.at("setup")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.fault.at("training_step")
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.fault.at("validation_step")
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        fault = self.fault

        class Step(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                result = super().step(closure)
                fault.at("optimizer.step")
                return result

        optimizer.__class__ = Step
        return optimizer

    def loader(self) -> DataLoader[Any]:
        data = Data(*images(8).tensors)
        data.fault = self.fault
        return DataLoader(data, batch_size=4)


def _hook(name: str) -> Callable[..., None]:
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        self.fault.at(f"{self.where}.{name}")

    return call


HOOKS = [
    "setup",
    "on_fit_start",
    "on_train_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_start",
    "on_validation_batch_start",
    "on_validation_epoch_end",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
    "on_fit_end",
]


class Other(L.Callback):
    """Somebody else's callback, ``"before"`` or ``"after"`` ours."""

    def __init__(self, where: str, fault: Fault) -> None:
        self.where, self.fault = where, fault


for _name in HOOKS:
    setattr(Other, _name, _hook(_name))


# --- what is left behind ---------------------------------------------------------------------------------------------

_STAY = {STATE, MUTATOR, "checkpoint_io", "_checkpoint_io", "_layer_sync"}
"""What a prepared module keeps, and the decorated plugins of a trainer, by which it writes structure files later."""

_CLASSES: tuple[type, ...] = (
    nn.Module,
    nn.Sequential,
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.Linear,
    torch.Tensor,
    torch.optim.Optimizer,
    torch.optim.SGD,
    DataLoader,
    L.LightningModule,
    L.Trainer,
    L.Callback,
    Net,
    Failing,
    Other,
)


def namespaces() -> dict[str, Any]:
    """What the classes and modules that everybody shares hold."""
    shared: list[Any] = [*_CLASSES, torch, F, torch.nn.functional, torch.compiler, torch.overrides]
    return {
        f"{owner!r}.{name}": id(value)
        for owner in shared
        for name, value in vars(owner).items()
        if callable(value) and not name.startswith("__abc") and name != "_abc_impl"
    }


def _objects(run: L.Trainer, module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from ((f"module {name}", inner) for name, inner in module.named_modules())
    yield "trainer", run
    yield "strategy", run.strategy
    yield "precision", run.precision_plugin
    fit = run.fit_loop
    loops = [fit, fit.epoch_loop, fit.epoch_loop.val_loop, fit.epoch_loop.automatic_optimization]
    for loop in [*loops, run.validate_loop, run.test_loop, run.predict_loop]:
        yield f"{type(loop).__name__} {getattr(loop, '_stage', '')}", loop
    yield from ((f"callback {type(callback).__name__}", callback) for callback in run.callbacks)  # type: ignore[attr-defined]
    yield from ((f"optimizer {number}", optimizer) for number, optimizer in enumerate(run.optimizers))


def _is_ours(value: Any) -> bool:
    return any(cls.__module__.startswith("lightning_channels") for cls in type(value).__mro__[:1]) or (
        getattr(getattr(value, "__self__", None), "__module__", "").startswith("lightning_channels")
    )


def left_behind(run: L.Trainer, module: nn.Module, ours: L.Callback | None) -> set[str]:
    """Methods that an object's own attributes hide, hooks, and objects of this package."""
    found: set[str] = set()
    for where, owner in _objects(run, module):
        if owner is ours:
            continue
        for name, value in vars(owner).items():
            if name in _STAY:
                continue
            if callable(getattr(type(owner), name, None)) and callable(value):
                found.add(f"{where}: {name} is hidden")
            if name.endswith("_hooks") and isinstance(value, dict) and value:
                found.add(f"{where}: {len(value)} {name}")
            if _is_ours(value):
                found.add(f"{where}: {name} is a {type(value).__name__}")
    return found
