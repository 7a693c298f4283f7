"""A dynamic op for a layer of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from lightning_channels.dynamic_ops.factory import C, named, named_class
from lightning_channels.dynamic_ops.mixin import DynamicMixin
from lightning_channels.dynamic_ops.spec import OpSpec, Side, add_spec, class_spec
from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["dynamic_op"]

Tensors = Mapping[str, Sequence[str | None]]


def dynamic_op(
    *,
    tensors: Tensors | None = None,
    inputs: str | None = None,
    outputs: str | None = None,
    sizes: Mapping[str, str] | None = None,
) -> Callable[[C], C]:
    """Class decorator: say which tensors of a layer hold which channels, so that it is traced, printed and cut by name.

    A layer without this is found too, tensor by tensor. With it the layer has an input and an output side, its units
    bear the layer's name, and the decorated class can be constructed directly.

    Args:
        tensors: For each parameter or buffer with channels, the side along each of its dims, ``None`` where a dim has
            none. Not needed for a layer that inherits from one of torch's that is known.
        inputs: The side that the layer reads.
        outputs: The side that it gives; the same as ``inputs`` for a layer that passes channels on, like a norm.
        sizes: Integer attribute → the side whose number of channels it is. By default each side is an attribute's name;
            ``{}`` says that the layer keeps no such numbers.

    Returns:
        The decorator; it goes on a class ``Dynamic…(DynamicMixin, TheLayer)``.

    Raises:
        ConfigError: If a side is named that is neither ``inputs`` nor ``outputs``, if the class is of another form, or
            if its layer has a dynamic op already.

    Example:
        >>> import torch
        >>> class Gain(nn.Module):
        ...     def __init__(self, channels: int) -> None:
        ...         super().__init__()
        ...         self.channels = channels
        ...         self.gain = nn.Parameter(torch.ones(channels, 1, 1))
        ...     def forward(self, x):
        ...         return x * self.gain
        >>> @dynamic_op(inputs="channels", outputs="channels", tensors={"gain": ("channels", None, None)})
        ... class DynamicGain(DynamicMixin, Gain):
        ...     pass
        >>> DynamicGain(8)
        DynamicGain(
          (mutable_attrs): ModuleDict(
            (channels): MutableChannelContainer(num_channels=8, activated_channels=8)
          )
        )
    """
    spec = None if tensors is None else _spec(tensors, inputs, outputs, sizes)

    def decorate(cls: C) -> C:
        plain = _plain(cls)
        if spec is not None:
            add_spec(plain, spec)
        elif class_spec(plain) is None:
            raise ConfigError(f"dynamic_op for {cls.__name__} needs tensors: {plain.__name__} is no layer of torch's")
        return named(cls)

    return decorate


def _spec(tensors: Tensors, inputs: str | None, outputs: str | None, sizes: Mapping[str, str] | None) -> OpSpec:
    known = [side for side in dict.fromkeys((inputs, outputs)) if side is not None]
    if not tensors or not known:
        raise ConfigError("dynamic_op needs tensors, and inputs or outputs or both")
    if sizes is None:
        sizes = {side: side for side in known}
    used = [side for dims in tensors.values() for side in dims if side is not None]
    for side in [*used, *sizes.values()]:
        if side not in known:
            hint = did_you_mean(side, known) or "."
            raise ConfigError(f"dynamic_op has no side {side!r}{hint} Its inputs and outputs are {', '.join(known)}")
    for side in known:
        if side not in used:
            raise ConfigError(f"dynamic_op has the side {side!r}, but none of its tensors {', '.join(tensors)} has it")
    return OpSpec(
        sides={side: Side(side == inputs, side == outputs) for side in known},
        tensors={name: tuple(dims) for name, dims in tensors.items()},
        sizes=dict(sizes),
    )


def _plain(cls: type) -> type[nn.Module]:
    bases = cls.__bases__
    if len(bases) < 2 or bases[0] is not DynamicMixin or not issubclass(bases[1], nn.Module):
        raise ConfigError(f"write class {cls.__name__}(DynamicMixin, TheLayer), in this order, for a dynamic op")
    plain: type[nn.Module] = bases[1]
    known = named_class(plain)
    if known is not None:
        raise ConfigError(f"{plain.__name__} has a dynamic op already: {known.__module__}.{known.__qualname__}")
    return plain
