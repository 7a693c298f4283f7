"""What a forward pass may leave behind in a model, and how it is undone."""

from __future__ import annotations

import gc
import operator
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_channels._modules import modules_of
from lightning_channels._rng import preserve_rng

__all__ = [
    "Attributes",
    "keeping_attributes",
    "paused_gc",
    "preserving",
    "seed",
    "seeded",
    "switch_mode",
    "without_dropout",
]

_CONTAINERS = (dict, OrderedDict, list, set)


@contextmanager
def preserving(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Afterwards modes, buffers and their values, and the global random states are as they were.

    Yields:
        Puts the buffers back already within the block.
    """
    modes = [(module, module.training) for module in modules_of(model)]
    found = (buffer for module, _ in modes for buffer in module._buffers.values() if buffer is not None)
    values = {id(buffer): (buffer, buffer.detach().clone()) for buffer in found}
    buffers = [(module, dict(module._buffers)) for module, _ in modes if not _is_scripted(module)]

    def restore() -> None:
        for module, own in buffers:
            if not _same_items(module._buffers, own):
                _refill(module._buffers, own)
        with torch.no_grad():
            for buffer, value in values.values():
                if not torch.equal(buffer, value):
                    buffer.copy_(value)

    with preserve_rng():
        try:
            yield restore
        finally:
            for module, training in modes:
                module.training = training
            restore()


def switch_mode(model: nn.Module, mode: bool) -> None:
    """``model.train(mode)``; and in a few steps where no module does more than that."""
    modules = modules_of(model)
    if any(_is_scripted(module) or _is_own(module, "train") or _is_own(module, "eval") for module in modules):
        if not mode:
            model.train()  # some models keep a cache for eval mode that only the switch to train mode clears
        model.train(mode)
        if not mode:
            model.eval()
        return
    for module in modules:
        module.__dict__["training"] = mode


def _is_own(module: nn.Module, name: str) -> bool:
    """Whether a module has a method of its own in the place of one of ``nn.Module``'s."""
    return name in module.__dict__ or getattr(type(module), name) is not getattr(nn.Module, name)


def _is_scripted(module: nn.Module) -> bool:
    """TorchScript's modules hold what is theirs in C++, where it can't be exchanged."""
    return isinstance(module, torch.jit.ScriptModule)


def _same(now: Collection[Any], before: Collection[Any]) -> bool:
    """Whether two collections hold the very same objects in the same order."""
    return len(now) == len(before) and all(map(operator.is_, now, before))


def _same_items(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return _same(now.values(), before.values()) and _same(now, before)


class Attributes:
    """The attributes that a model's modules have at a time.

    Args:
        model: It may change its mode and its rates of dropout later, if that is undone by whoever does it.
    """

    def __init__(self, model: nn.Module) -> None:
        self._saved = [(m.__dict__, m.__dict__.copy()) for m in modules_of(model) if not _is_scripted(m)]
        held = (item for _, before in self._saved for item in before.items())
        containers = [value for name, value in held if type(value) in _CONTAINERS and name != "_buffers"]
        self._empty = [container for container in containers if not container]
        self._filled = [(container, container.copy()) for container in containers if container]

    def put_back(self) -> None:
        """Every module has these attributes again: caches, counters, hooks and the last activations go."""
        for now, before in self._saved:
            # without a call, since this is done for every module after every run
            if not all(map(operator.is_, now.values(), before.values())) or list(now) != list(before):
                _refill(now, before)
        for container in self._empty:
            if container:
                container.clear()
        for container, before in self._filled:
            if not (_same_items if isinstance(container, dict) else _same)(container, before):
                _refill(container, before)


@contextmanager
def keeping_attributes(model: nn.Module, attributes: Attributes | None = None) -> Iterator[None]:
    """Afterwards every module has the attributes that it had.

    Args:
        model: Whose modules.
        attributes: What it has, if that is known.
    """
    attributes = attributes or Attributes(model)
    try:
        yield
    finally:
        attributes.put_back()


def _refill(container: Any, before: Any) -> None:
    """Give a container its items back."""
    container.clear()
    (container.extend if isinstance(container, list) else container.update)(before)


@contextmanager
def paused_gc() -> Iterator[None]:
    """No garbage collection for a while: it would look at every recorded operator again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def seeded() -> Iterator[None]:
    """The same random numbers each time; afterwards the global random states are as they were."""
    with preserve_rng():
        seed()
        yield


def seed() -> None:
    """Set the global random states, for one who puts them back himself."""
    # torch.manual_seed would leave a seed, with a traceback, for each kind of device that hasn't been started; it would
    # be used in the place of the one that the user has set
    torch.default_generator.manual_seed(0)
    for devices in (torch.cuda, torch.xpu):
        if devices.is_initialized():
            devices.manual_seed_all(0)
    torch.mps.manual_seed(0)  # where there are such devices
    random.seed(0)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(0)


_RATES = ("p", "prob", "rate", "probs", "ratio")


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Rates of dropout and stochastic depth are 0 for a while, whatever a module calls them.

    A module's rate is a float attribute whose name speaks of dropping, or that is called ``p``, ``prob`` or the like in
    a class whose name does.
    """
    changed: list[tuple[nn.Module, str, float]] = []
    for module in modules_of(model):
        attributes = module.__dict__
        for name, value in attributes.items():
            if type(value) is float and 0 < value <= 1 and _is_rate(module, name):
                changed.append((module, name, value))
    try:
        for module, name, _ in changed:
            module.__dict__[name] = 1.0 if "keep" in name.lower() else 0.0
        yield
    finally:
        for module, name, value in changed:
            module.__dict__[name] = value


def _is_rate(module: nn.Module, name: str) -> bool:
    if "drop" in name.lower():
        return True
    kind = type(module).__name__.lower()
    return name.lower().strip("_") in _RATES and ("drop" in kind or "stochasticdepth" in kind)
