"""The subnet as a plain model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_channels._hooks import drop_own_hooks
from lightning_channels._modules import modules_of, named_tensors_of
from lightning_channels.dynamic_ops import containers, is_dynamic, make_static
from lightning_channels.dynamic_ops.convert import StaticMemo
from lightning_channels.dynamic_ops.state import state_of
from lightning_channels.errors import ChoiceError, PrepareError, did_you_mean
from lightning_channels.eval_caches import forget, keepers
from lightning_channels.export.copying import copied
from lightning_channels.export.tensors import active_tensors
from lightning_channels.mutables import BaseMutableChannel, batch_update
from lightning_channels.mutators.preparation import MUTATOR
from lightning_channels.tracing.preserving import paused_gc
from lightning_channels.units.choosing import Choice, is_listed

__all__ = ["chosen", "export_subnet", "static_copy"]

# what a LightningModule holds that isn't the model, and what a prepared root holds that is ours
_RUNNERS = {"_trainer", "_fabric"}
_OURS = {MUTATOR}
_COMPILED = "_compiler_ctx"
"""Where a compiled LightningModule keeps its own methods; the compiled ones that hide them know this one module."""


def export_subnet(model: nn.Module, choices: Mapping[str, Choice] | None = None) -> nn.Module:
    """Copy a prepared model with its active channels alone; what isn't active is never copied.

    Args:
        model: A prepared module, or a LightningModule; it isn't changed.
        choices: Unit names to choices, or to lists of the channels to keep; units that aren't named keep what is active
            now.

    Returns:
        A model of the plain classes, with the same mode, dtype, device, memory format and hooks. It can be pickled, and
        loaded where this package isn't installed.

    Raises:
        PrepareError: If ``model`` is not prepared.
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
    return static_copy(model, choices)


def static_copy(model: nn.Module, choices: Mapping[str, Choice] | None = None, throwaway: bool = False) -> nn.Module:
    """What :func:`export_subnet` returns.

    Args:
        model: A prepared module.
        choices: Unit names to choices.
        throwaway: Whether parameters that lose no channel, and the trainer, are those of ``model`` itself. That is for
            a copy which is run and thrown away.
    """
    if not any(is_dynamic(module) or _OURS & module.__dict__.keys() for module in modules_of(model)):
        raise PrepareError(
            f"{type(model).__name__} is not prepared; prepare it first (ChannelMutator.prepare_from_supernet, or the"
            " ChannelPruning callback)"
        )
    with chosen(model, choices or {}):
        # deepcopy finds the small tensors as if it had copied the full ones already, and make_static as if it had cut
        memo: dict[int, Any] = {}
        cut: StaticMemo = {}
        for full, small, selections in active_tensors(model):
            memo[id(full)] = small
            cut[id(small), selections] = (small, small)
        for value in (value for module in modules_of(model) for value in module.__dict__.values()):
            if isinstance(value, Tensor) and not value.is_leaf:  # a weight that a hook computed; PyTorch copies none
                memo.setdefault(id(value), value.detach().clone())
        if throwaway:
            for _, tensor in named_tensors_of(model):
                if isinstance(tensor, nn.Parameter):
                    memo.setdefault(id(tensor), tensor)
        # what says which channels are active is only read, and would take longest; only a switchable norm's has tensors
        states = [state_of(module) for module in modules_of(model) if is_dynamic(module)]
        memo |= {id(state): state for state in states if state.candidates is None}
        memo |= {id(root.owner): None for root in _roots(model) if root.owner is not None}
        with _uncompiled(model), _without(model, _RUNNERS | _OURS), paused_gc():
            exported = copied(model, memo)
        for module in modules_of(exported):
            for name in _OURS:
                module.__dict__.pop(name, None)
            if is_dynamic(module):
                make_static(module, cut, borrowed=state_of(module).candidates is None)
    drop_own_hooks(modules_of(exported))
    forget(keepers(exported))
    if throwaway:
        for module in modules_of(model):
            runners = {name: module.__dict__[name] for name in _RUNNERS & module.__dict__.keys()}
            if runners:
                memo[id(module)].__dict__.update(runners)
    return exported


@contextmanager
def _without(model: nn.Module, names: set[str]) -> Iterator[None]:
    """Take attributes off while the model is copied: a trainer holds the data, the optimizers and the model again."""
    held: list[tuple[dict[str, Any], str, Any]] = []
    for module in modules_of(model):
        for name in names:
            if module.__dict__.get(name) is not None:
                held.append((module.__dict__, name, module.__dict__[name]))
                module.__dict__[name] = None
    try:
        yield
    finally:
        for attributes, name, value in held:
            attributes[name] = value


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Give compiled LightningModules their own methods back while the model is copied: a copy would call the model."""
    held: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in modules_of(model):
        attributes = module.__dict__
        context = attributes.get(_COMPILED)
        if not isinstance(context, dict):
            continue
        held.append((attributes, dict(attributes)))
        attributes[_COMPILED] = None
        for key, method in context.items():
            name = key.removeprefix("original_")
            if name != key:
                attributes.pop(name, None)
                if getattr(method, "__func__", None) is not getattr(type(module), name, None):
                    attributes[name] = method
    try:
        yield
    finally:
        for attributes, before in held:
            attributes.update(before)


@contextmanager
def chosen(model: nn.Module, choices: Mapping[str, Choice]) -> Iterator[None]:
    """Set units by name inside the block; what decides about a channel is found through the model's own containers."""
    units = _units(model) if choices else {}
    for name in choices:
        if name not in units:
            allowed = ", ".join(units)
            hint = did_you_mean(name, units) or "."
            raise ChoiceError(f"no mutable unit is named {name!r}{hint} The model has: {allowed}")
    before = _snapshots(model) if choices else []
    try:
        with batch_update():
            _choose(model, units, dict(choices))
        yield
    finally:
        for mutable, snapshot in before:
            mutable.put_back(snapshot)


def _choose(model: nn.Module, units: Mapping[str, Any], choices: dict[str, Choice]) -> None:
    """Set choices through the mutators that know the units, since these can mean more together than each alone."""
    for mutator in [module.__dict__[MUTATOR] for module in modules_of(model) if module.__dict__.get(MUTATOR)]:
        own = {name: choices.pop(name) for name in list(choices) if name in mutator.name2unit}
        if own:
            mutator.set_choices(own)
    for name, choice in choices.items():
        if is_listed(choice):
            units[name].keep(choice)
        else:
            units[name].current_choice = choice


def _roots(model: nn.Module) -> Iterator[BaseMutableChannel]:
    """The mutables that decide, as often as they are on a side."""
    for module in modules_of(model):
        for container in containers(module).values() if is_dynamic(module) else ():
            for mutable in container.mutables:
                yield mutable.root


def _snapshots(model: nn.Module) -> list[tuple[BaseMutableChannel, Any]]:
    return [(root, root.snapshot()) for root in {id(root): root for root in _roots(model)}.values()]


def _units(model: nn.Module) -> dict[str, Any]:
    """Units by name; a mutable without a unit stands for itself."""
    found: dict[str, Any] = {}
    for root in _roots(model):
        unit = root if root.owner is None else root.owner
        if unit.name and getattr(unit, "is_mutable", True):
            found[unit.name] = unit
    return found
