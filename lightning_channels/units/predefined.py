"""Units of a model that was written with dynamic ops and mutables: read off the containers, nothing is run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from lightning_channels._modules import named_modules_of
from lightning_channels.dynamic_ops import containers, is_dynamic
from lightning_channels.dynamic_ops.spec import OpSpec, Side, group_count, is_depthwise, spec_of
from lightning_channels.dynamic_ops.state import bare_side, state_of
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.mutables import (
    BaseMutableChannel,
    DerivedMutableChannel,
    SimpleMutableChannel,
    SquentialMutableChannel,
)
from lightning_channels.units.channel import Channel

if TYPE_CHECKING:
    from lightning_channels.units.base import MutableChannelUnit

__all__ = ["PredefinedGroup", "fill_from_predefined", "predefined_groups"]


_PLAIN = (BaseMutableChannel, SquentialMutableChannel, SimpleMutableChannel)
"""What every mutable can do as well, for a unit: keep the first channels, or any."""


@dataclass(slots=True)
class PredefinedGroup:
    """What one mutable decides about in a model.

    Attributes:
        mutable: The mutable; it goes on deciding, now as its unit's.
        output_related: Channels on output sides.
        input_related: Channels on input sides.
        attributes: Integers of modules that count the channels.
        groups: Number of equal tiles that must keep the same channels.
        reason: Why the number can't change, where a constraint of a module can't be kept.
    """

    mutable: BaseMutableChannel
    output_related: list[Channel] = field(default_factory=list)
    input_related: list[Channel] = field(default_factory=list)
    attributes: list[Channel] = field(default_factory=list)
    groups: int = 1
    reason: str | None = None

    @property
    def num_channels(self) -> int:
        """Number of channels."""
        return self.mutable.num_channels


def predefined_groups(model: nn.Module) -> list[PredefinedGroup]:
    """One group for each mutable that is registered in the model, in the order of the modules.

    Raises:
        PrepareError: If the model has no dynamic op, or none with a mutable.
    """
    found: dict[int, PredefinedGroup] = {}
    dynamic = [(name, module) for name, module in named_modules_of(model) if is_dynamic(module)]
    if not dynamic:
        raise PrepareError(
            f"{type(model).__name__} has no dynamic op, so that nothing in it says which channels belong together; "
            "write it with DynamicConv2d, DynamicLinear, …, or find its units with a tracer"
        )
    for name, module in dynamic:
        for side, container in containers(module).items():
            for crossing, tiling in enumerate((container.mutable_channels, container.crossing_channels)):
                for tile, mutable in tiling.items():
                    group = found.setdefault(id(mutable.root), PredefinedGroup(mutable.root))
                    _add(group, name, module, side, tile, mutable, bool(crossing))
                    _constrain(group, name, module, side, tile, mutable)
        _check_depthwise(found, name, module)
    if not found:
        raise PrepareError(
            f"none of the {len(dynamic)} dynamic ops of {type(model).__name__} has a mutable; register them with "
            "MutableChannelContainer.register_mutable_channel_to_module"
        )
    return list(found.values())


def _add(
    group: PredefinedGroup,
    name: str,
    module: nn.Module,
    side: str,
    tile: tuple[int, int],
    mutable: BaseMutableChannel,
    crossing: bool,
) -> None:
    ratio, index = 1, None
    if isinstance(mutable, DerivedMutableChannel):
        ratio = mutable.expand_ratio or 1
        index = tuple(mutable.positions.tolist()) if mutable.expand_ratio is None else None
    spec, bare = spec_of(module), _bare_tensors(module)
    role = spec.sides.get(side) if spec is not None else None
    if role is not None or side in bare:
        tensor, dim = bare.get(side, (None, 0))
        role = role or Side(True, True)  # a bare tensor lies between input and output, like a norm's
        if role.is_output:
            group.output_related.append(Channel(name, *tile, True, ratio, index, tensor, dim, crossing=crossing))
        if role.is_input:
            group.input_related.append(Channel(name, *tile, False, ratio, index, tensor, dim, crossing=crossing))
    else:
        group.attributes.append(Channel(name, *tile, False, ratio, index, attribute=side, crossing=crossing))


def _bare_tensors(module: nn.Module) -> dict[str, tuple[str, int]]:
    """(tensor, dim) by side, for the tensors of a dynamic op that are in no table."""
    held = {**module._parameters, **module._buffers}
    return {
        bare_side(name, tensor.shape, dim): (name, dim)
        for name, dims in state_of(module).bare.items()
        for dim in dims
        if (tensor := held[name]) is not None
    }


def _constrain(
    group: PredefinedGroup, name: str, module: nn.Module, side: str, tile: tuple[int, int], mutable: BaseMutableChannel
) -> None:
    """A module with groups keeps the same channels in each of them, so its side must be one mutable's alone."""
    spec = spec_of(module)
    if spec is None or side not in spec.sides:
        return
    count = _tiles(module, spec)
    if count == 1:
        return
    whole = tile == (0, containers(module)[side].num_channels)
    in_order = mutable is group.mutable or (isinstance(mutable, DerivedMutableChannel) and mutable.expand_ratio)
    if whole and in_order and group.mutable.num_channels % count == 0:
        group.groups = math.lcm(group.groups, count)
    elif group.reason is None:
        group.reason = f"{name or 'the model'} has {count} groups, and its {side} aren't this mutable's alone, in order"


def _check_depthwise(found: dict[int, PredefinedGroup], name: str, module: nn.Module) -> None:
    """A depthwise convolution gives what it reads, so both of its sides must be the same mutables'."""
    spec = spec_of(module)
    if spec is None or spec.groups is None or not spec.groups.strict or not is_depthwise(module, spec):
        return
    roots = [[id(m.root) for m in containers(module)[side].mutables] for side in spec.sides]
    if roots[0] != roots[1]:
        for root in {*roots[0], *roots[1]}:
            found[root].reason = f"{name or 'the model'} is depthwise, and its two sides are not the same mutables'"


def _tiles(module: nn.Module, spec: OpSpec) -> int:
    """Into how many tiles that must keep the same channels a module's sides are split."""
    return 1 if is_depthwise(module, spec) else group_count(module, spec)


def fill_from_predefined(unit: MutableChannelUnit, group: PredefinedGroup) -> None:
    """Give a unit the channels of a group, and the mutable that decides about them.

    Raises:
        ConfigError: If the unit's type needs a mutable of its own kind, and the model has another.
    """
    if unit.mutable_class not in _PLAIN and not isinstance(group.mutable, unit.mutable_class):
        raise ConfigError(
            f"unit type {type(unit).__name__} steers a {unit.mutable_class.__name__}, and the model has registered "
            f"{group.mutable!r}; register that kind in the model, or take another unit type"
        )
    unit.output_related = list(group.output_related)
    unit.input_related = list(group.input_related)
    unit.attributes = list(group.attributes)
    unit.groups, unit.reason = group.groups, group.reason
    unit.mutable_channel = group.mutable
    group.mutable.owner = unit
