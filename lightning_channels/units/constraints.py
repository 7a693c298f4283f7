"""Whether units respect what a model's modules ask of the channels that are kept, found without running anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from lightning_channels._modules import named_modules_of
from lightning_channels.dynamic_ops import containers, is_dynamic
from lightning_channels.dynamic_ops.mixin import DynamicMixin
from lightning_channels.dynamic_ops.spec import group_count, spec_of
from lightning_channels.dynamic_ops.state import state_of
from lightning_channels.errors import ChoiceError, StructureError
from lightning_channels.mutables import batch_update
from lightning_channels.units.base import MutableChannelUnit

__all__ = ["check_constraints"]


def check_constraints(model: nn.Module, units: Sequence[MutableChannelUnit]) -> None:
    """Check units that no trace has found: groups keep the same channels, whatever widths the units have.

    Args:
        model: Its modules are dynamic already.
        units: The mutable ones; they are afterwards at the widths at which they were before.

    Raises:
        StructureError: If some widths don't go together; the message names the module.
    """
    asking = [(name, module) for name, module in named_modules_of(model) if is_dynamic(module) and _asks(module)]
    if not asking:
        return
    with _put_back(units):
        for narrow in _rounds(units):
            with batch_update():
                for unit, is_narrow in zip(units, narrow, strict=True):
                    number = unit.groups if is_narrow else unit.num_channels
                    unit.mutable_channel.keep(unit._first(number))
            for name, module in asking:
                try:
                    _check(module)
                except ChoiceError as error:
                    names = ", ".join(repr(unit.name) for unit in _deciding(module, units))
                    raise StructureError(
                        f"the units {names} don't respect the constraints of {name or 'the model'!r}, a "
                        f"{_plain_name(module)}: {error}. Take the units of a trace"
                    ) from error


def _asks(module: nn.Module) -> bool:
    """Whether not every choice of channels will do."""
    spec = spec_of(module)
    crossed = any(container.crossing_channels for container in containers(module).values())
    return crossed or (spec is not None and group_count(module, spec) > 1)


def _rounds(units: Sequence[MutableChannelUnit]) -> Iterator[list[bool]]:
    """Which units are narrow: all, and then so that any two differ once."""
    yield [True] * len(units)
    for bit in range((len(units) - 1).bit_length()):
        yield [bool(number >> bit & 1) for number in range(len(units))]


def _check(module: nn.Module) -> None:
    spec, state = spec_of(module), state_of(module)
    for container in state.held:
        container.sel  # noqa: B018  # refuses to be empty
    if spec is None or spec.groups is None or group_count(module, spec) == 1:
        return
    getattr(module, spec.groups.attribute)
    for name in state.plan.tensors:
        state.selections(name)
    if not spec.groups.strict:
        for container in state.held:
            counts = container.current_mask.reshape(group_count(module, spec), -1).sum(1)
            if bool((counts != counts[0]).any()):
                raise ChoiceError(f"its groups keep {counts.tolist()} of their channels, and must keep equally many")


def _plain_name(module: nn.Module) -> str:
    assert isinstance(module, DynamicMixin)
    return module.plain_class.__name__


def _deciding(module: nn.Module, units: Sequence[MutableChannelUnit]) -> list[MutableChannelUnit]:
    roots = {id(mutable.root) for container in containers(module).values() for mutable in container.mutables}
    return [unit for unit in units if id(unit.mutable_channel) in roots]


@contextmanager
def _put_back(units: Sequence[MutableChannelUnit]) -> Iterator[None]:
    before = [(unit.mutable_channel, unit.mutable_channel.snapshot()) for unit in units]
    try:
        yield
    finally:
        with batch_update():
            for mutable, snapshot in before:
                mutable.put_back(snapshot)
