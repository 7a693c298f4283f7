"""Containers of a class of the user's own."""

from __future__ import annotations

from torch import nn

from lightning_channels._modules import modules_of
from lightning_channels.dynamic_ops.convert import is_dynamic
from lightning_channels.dynamic_ops.state import state_of
from lightning_channels.errors import ConfigError
from lightning_channels.mutables.container import MutableChannelContainer

__all__ = ["use_container_class"]


def use_container_class(model: nn.Module, container_class: type[MutableChannelContainer]) -> None:
    """Give every dynamic op of a model containers of one class; what is registered in them stays registered.

    Args:
        model: A model with dynamic ops; other modules are left alone.
        container_class: :class:`MutableChannelContainer` or a subclass of it.

    Raises:
        ConfigError: If it is another class.
    """
    if MutableChannelContainer not in getattr(container_class, "__mro__", ()):
        raise ConfigError(f"container_class must be MutableChannelContainer or a subclass, got {container_class!r}")
    for module in modules_of(model):
        if is_dynamic(module):
            _exchange(module, container_class)


def _exchange(module: nn.Module, container_class: type[MutableChannelContainer]) -> None:
    state = state_of(module)
    new: dict[int, MutableChannelContainer] = {}
    for container in state.held:
        new[id(container)] = container
        if type(container) is not container_class:
            tilings = {False: container.mutable_channels, True: container.crossing_channels}
            new[id(container)] = container_class(container.num_channels)
            container.clear()
            for crossing, tiling in tilings.items():
                for (start, end), mutable in tiling.items():
                    new[id(container)].register_mutable(mutable, start, end, crossing)
    state.held = tuple(new[id(old)] for old in state.held)
