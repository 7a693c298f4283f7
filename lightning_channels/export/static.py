"""The subnet as a plain model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from lightning_channels.dynamic_ops import containers, is_dynamic, make_static
from lightning_channels.dynamic_ops.convert import StaticMemo
from lightning_channels.errors import ChoiceError, PrepareError, did_you_mean

__all__ = ["export_subnet"]

# what a LightningModule holds that isn't the model, and what a prepared root holds that is ours
_RUNNERS = ("_trainer", "_fabric")
_OURS = ("_channel_mutator",)


def export_subnet(model: nn.Module, choices: Mapping[str, int | float] | None = None) -> nn.Module:
    """Copy a prepared model with its active channels alone.

    Args:
        model: A prepared module, or a LightningModule; it isn't changed.
        choices: Unit names to choices; units that aren't named keep their current one.

    Returns:
        A model of the plain classes, with the same mode, dtype, device, memory format and hooks. It can be pickled, and
        loaded where this package isn't installed.

    Raises:
        PrepareError: If ``model`` has no dynamic op.
        ChoiceError: If ``choices`` names no mutable unit of the model, or is out of range.

    Example:
        >>> from lightning_channels.dynamic_ops import make_dynamic
        >>> from lightning_channels.mutables import SquentialMutableChannel
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> hidden = SquentialMutableChannel(8, name="hidden")
        >>> make_dynamic(net[0]).mutable_attrs["out_features"].register_mutable(hidden)
        >>> make_dynamic(net[2]).mutable_attrs["in_features"].register_mutable(hidden)
        >>> export_subnet(net, {"hidden": 3})
        Sequential(
          (0): Linear(in_features=4, out_features=3, bias=True)
          (1): ReLU()
          (2): Linear(in_features=3, out_features=2, bias=True)
        )
    """
    if not any(is_dynamic(module) for module in model.modules()):
        raise PrepareError(
            f"{type(model).__name__} has no dynamic op; prepare it first (ChannelMutator.prepare_from_supernet, or the"
            " ChannelPruning callback)"
        )
    with _without_runners(model):
        exported = copy.deepcopy(model)
    if choices is not None:
        _choose(exported, choices)
    memo: StaticMemo = {}
    for module in list(exported.modules()):
        for name in _OURS:
            module.__dict__.pop(name, None)
        if is_dynamic(module):
            make_static(module, memo)
    return exported


@contextmanager
def _without_runners(model: nn.Module) -> Iterator[None]:
    """Take the trainer off while the model is copied: it holds the data, the optimizers and the model again."""
    held: list[tuple[dict[str, Any], str, Any]] = []
    for module in model.modules():
        for name in _RUNNERS:
            if module.__dict__.get(name) is not None:
                held.append((module.__dict__, name, module.__dict__[name]))
                module.__dict__[name] = None
    try:
        yield
    finally:
        for attributes, name, runner in held:
            attributes[name] = runner


def _choose(model: nn.Module, choices: Mapping[str, int | float]) -> None:
    """Set units by name; what decides about a channel is found through the containers of the model itself."""
    units = _units(model)
    for name in choices:
        if name not in units:
            allowed = ", ".join(units)
            hint = did_you_mean(name, units) or "."
            raise ChoiceError(f"no mutable unit is named {name!r}{hint} The model has: {allowed}")
    for name, choice in choices.items():
        units[name].current_choice = choice


def _units(model: nn.Module) -> dict[str, Any]:
    """Units by name; a mutable without a unit stands for itself."""
    found: dict[str, Any] = {}
    for module in model.modules():
        for container in containers(module).values() if is_dynamic(module) else ():
            for mutable in container.mutable_channels.values():
                unit = mutable.root if mutable.root.owner is None else mutable.root.owner
                if unit.name and getattr(unit, "is_mutable", True):
                    found[unit.name] = unit
    return found
