"""Connecting a unit's mutable channel with the modules that its channels name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_channels._modules import module_at, module_in, named_modules_of
from lightning_channels.dynamic_ops import container_of, containers, is_dynamic, make_dynamic, restore
from lightning_channels.dynamic_ops.attributes import attribute_sizes
from lightning_channels.dynamic_ops.spec import refusal, sides, spec_of
from lightning_channels.dynamic_ops.state import bare_side
from lightning_channels.errors import ConfigError, StructureError, did_you_mean
from lightning_channels.mutables import BaseMutableChannel, DerivedMutableChannel
from lightning_channels.tracing.may_count import may_count
from lightning_channels.units.channel import Channel

__all__ = ["attach", "check_fits", "check_followers", "detach", "side_key"]


_ADVICE = "Take units with the model that they were made from"


def check_fits(model: nn.Module, unit: str, channels: Iterable[Channel]) -> None:
    """Check that a model has the modules and positions that channels name.

    Raises:
        StructureError: If it hasn't; the message names unit and module.
    """
    for channel in channels:
        module = module_at(model, channel.name)
        if module is None:
            names = [name for name, _ in named_modules_of(model)]
            raise StructureError(
                f"unit {unit!r} has a channel in the module {channel.name!r}, which the model doesn't have"
                f"{did_you_mean(channel.name, names) or '.'} {_ADVICE}"
            )
        reason = refusal(module)
        if reason is not None and not is_dynamic(module):
            raise StructureError(f"unit {unit!r} has a channel in {channel.name!r}, which can't be narrowed: {reason}")
        size = _side_size(module, channel)
        if size is None:
            what = f"tensor {channel.tensor!r}" if channel.tensor else "channels"
            what = f"the integer {channel.attribute!r}" if channel.attribute else what
            raise StructureError(
                f"unit {unit!r} needs {what} of {channel.name!r}, a {type(module).__name__}, which has none. {_ADVICE}"
            )
        if channel.end > size:
            raise StructureError(f"unit {unit!r} needs {channel!r}, but that side has {size} positions. {_ADVICE}")


def check_followers(model: nn.Module, unit: str, channels: Iterable[Channel]) -> None:
    """Check that the integers that a template lets follow channels are ones that a trace could have found.

    Raises:
        StructureError: If another one is named; a template overrides no attribute that isn't a size in a forward pass.
    """
    for channel in channels:
        if channel.attribute is not None and not may_count(model, channel.name, channel.attribute):
            raise StructureError(
                f"unit {unit!r} would override {channel.label}, which sizes no view, split or slice in the model's "
                "code. Take the unit as a tracer finds it"
            )


def _side_size(module: nn.Module, channel: Channel) -> int | None:
    if channel.attribute is not None:
        return attribute_sizes(module).get(channel.attribute)
    if channel.tensor is not None:
        tensor = _bare_tensor(module, channel.tensor)
        return tensor.shape[channel.dim] if tensor is not None and channel.dim < tensor.dim() else None
    key = side_key(module, channel)
    return None if key is None else sides(module)[key]


def _bare_tensor(module: nn.Module, name: str) -> Tensor | None:
    """A floating tensor of a module's own that the table of dynamic ops doesn't know."""
    spec = spec_of(module)
    tensor = {**module._parameters, **module._buffers}.get(name)
    if tensor is None or not tensor.is_floating_point() or (spec is not None and name in spec.tensors):
        return None
    return tensor


def side_key(module: nn.Module, channel: Channel) -> str | None:
    """Name of the side that a channel is on; None if the module has no such side."""
    if channel.attribute is not None:
        return channel.attribute
    if channel.tensor is not None:
        tensor = _bare_tensor(module, channel.tensor)
        return None if tensor is None else bare_side(channel.tensor, tensor.shape, channel.dim)
    spec = spec_of(module)
    if spec is None:
        return None
    roles = spec.sides.items()
    return next((key for key, role in roles if (role.is_output if channel.is_output_channel else role.is_input)), None)


def attach(model: nn.Module, channels: Sequence[Channel], mutable: BaseMutableChannel) -> None:
    """Make the channels' modules dynamic and register ``mutable`` there. All or nothing."""
    changed: list[nn.Module] = []
    try:
        for channel in channels:
            module = module_in(model, channel.name)
            if not is_dynamic(module):
                changed.append(module)
            bare = {} if channel.tensor is None else {channel.tensor: [channel.dim]}
            make_dynamic(module, bare, () if channel.attribute is None else (channel.attribute,))
            container = container_of(module, channel.is_output_channel, side_key(module, channel))
            tiling = container.crossing_channels if channel.crossing else container.mutable_channels
            tile = tiling.get((channel.start, channel.end))
            if tile is not None and tile.root is mutable:
                continue  # a norm's one side stands in both lists
            try:
                container.register_mutable(_on_side(mutable, channel), channel.start, channel.end, channel.crossing)
            except ConfigError as error:
                raise ConfigError(f"unit {mutable.name!r} can't have {channel!r}: {error}") from error
    except BaseException:
        detach(model, channels, mutable)
        for module in changed:
            if is_dynamic(module):
                restore(module)
        raise


def _on_side(mutable: BaseMutableChannel, channel: Channel) -> BaseMutableChannel:
    if channel.index is not None:
        return DerivedMutableChannel(mutable, torch.tensor(channel.index))
    return mutable if channel.expand_ratio == 1 else mutable.expand_mutable_channel(channel.expand_ratio)


def detach(model: nn.Module, channels: Sequence[Channel], mutable: BaseMutableChannel) -> None:
    """Undo :func:`attach`; a module that no unit steers any more gets its plain class back."""
    for name in dict.fromkeys(channel.name for channel in channels):
        module = module_in(model, name)
        if not is_dynamic(module):
            continue
        for container in containers(module).values():
            for tile in [tile for tile in container.mutables if tile.root is mutable]:
                container.unregister(tile)
        if not any(container.mutables for container in containers(module).values()):
            restore(module)
