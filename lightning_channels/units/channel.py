"""A run of channels of one module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError, check_keys

__all__ = ["Channel", "num_channels_in"]

_KEYS = ("name", "start", "end", "expand_ratio", "is_output_channel", "index", "tensor", "dim", "attribute", "crossing")


@dataclass(frozen=True, slots=True)
class Channel:
    """Consecutive channels of one side of a module. Plain data: the module is named, not held.

    Args:
        name: Dotted name of the module.
        start: First position on the module's side.
        end: One past the last.
        is_output_channel: Whether it is on the output side.
        expand_ratio: How often each channel of the unit is repeated, one after the other (a flatten before a linear
            layer repeats each channel once for every pixel).
        index: The unit's channel at each position, where it isn't each channel ``expand_ratio`` times in order.
        tensor: Attribute name of a bare parameter, such as a ``layer_scale``, where the channels are no side of the
            module.
        dim: The dim of ``tensor``.
        attribute: Key of an integer attribute that counts the channels, such as ``"num_heads"`` or ``"splits[0]"``.
        crossing: Whether another unit decides about the same positions as well: the one about an attention's heads, and
            this one about the places in each.
    """

    name: str
    start: int
    end: int
    is_output_channel: bool = True
    expand_ratio: int = 1
    index: tuple[int, ...] | None = None
    tensor: str | None = None
    dim: int = 0
    attribute: str | None = None
    crossing: bool = False

    @property
    def num_channels(self) -> int:
        """Number of positions."""
        return self.end - self.start

    @property
    def label(self) -> str:
        """Name of the module, and of the bare tensor (with its dim, if not the first) or the attribute if it is one."""
        tensor = f"{self.tensor}[{self.dim}]" if self.tensor and self.dim else self.tensor
        return ".".join(part for part in (self.name, tensor, self.attribute) if part)

    def __repr__(self) -> str:
        output = str(self.is_output_channel).lower()
        return (
            f"Channel({self.label}, index=({self.start}, {self.end}), is_output_channel={output}, "
            f"expand_ratio={self.expand_ratio})"
        )

    def config_template(self) -> dict[str, Any]:
        """The channel as plain data; :meth:`init_from_cfg` reads it."""
        template: dict[str, Any] = {
            "name": self.name,
            "start": self.start,
            "end": self.end,
            "expand_ratio": self.expand_ratio,
            "is_output_channel": self.is_output_channel,
        }
        if self.index is not None:
            template["index"] = list(self.index)
        if self.tensor is not None:
            template |= {"tensor": self.tensor, "dim": self.dim}
        if self.attribute is not None:
            template["attribute"] = self.attribute
        if self.crossing:
            template["crossing"] = True
        return template

    @classmethod
    def init_from_cfg(cls, config: Mapping[str, Any], num_channels: int, is_output_channel: bool) -> Channel:
        """Read a channel.

        Args:
            config: ``name`` is required; ``start`` and ``end`` default to 0 and ``num_channels``.
            num_channels: Of the unit.
            is_output_channel: Default, by the list that the channel stands in.

        Raises:
            ConfigError: If a key is unknown or a value is not allowed.
        """
        check_keys(config, _KEYS, "a channel")
        name, tensor, attribute = (_string(config, key) for key in ("name", "tensor", "attribute"))
        if name is None:
            raise ConfigError(f"a channel must have a 'name', got {config!r}")
        if tensor is not None and attribute is not None:
            raise ConfigError(f"the channel {name!r} is on a tensor or counted by an attribute, not both")
        index = _index(config)
        start, ratio, dim = (
            _integer(config, key, default) for key, default in (("start", 0), ("expand_ratio", 1), ("dim", 0))
        )
        end = _integer(config, "end", start + num_channels * ratio if index is None else start + len(index))
        channel = cls(
            name=name,
            start=start,
            end=end,
            is_output_channel=_boolean(config, "is_output_channel", is_output_channel),
            expand_ratio=ratio,
            index=index,
            tensor=tensor,
            dim=dim,
            attribute=attribute,
            crossing=_boolean(config, "crossing", False),
        )
        if channel.is_output_channel != is_output_channel:
            here, there = ("output_related", "input_related")[:: 1 if is_output_channel else -1]
            raise ConfigError(f"{channel!r} is listed under {here}; its is_output_channel belongs to {there}")
        channel._check(num_channels)
        return channel

    def _check(self, num_channels: int) -> None:
        if not 0 <= self.start < self.end or self.expand_ratio < 1:
            raise ConfigError(f"{self!r} must have 0 <= start < end and an expand_ratio of at least 1")
        if self.dim < 0 or (self.dim and self.tensor is None):
            raise ConfigError(f"{self!r} has the dim {self.dim}; a dim is one of a 'tensor', counted from 0")
        expected = num_channels * self.expand_ratio if self.index is None else len(self.index)
        if self.num_channels != expected:
            raise ConfigError(
                f"{self!r} has {self.num_channels} positions; a unit of {num_channels} channels with its expand_ratio "
                f"and index needs {expected}"
            )
        if self.index is not None and not all(0 <= i < num_channels for i in self.index):
            raise ConfigError(f"{self!r} has an index outside the unit's {num_channels} channels")


def num_channels_in(config: Mapping[str, Any]) -> int | None:
    """How many channels the unit of a channel's config has; None where that doesn't say it.

    Raises:
        ConfigError: If a position is no integer.
    """
    index = _index(config)
    if index:
        return max(index) + 1
    if "end" not in config:
        return None
    start, end, ratio = (
        _integer(config, key, default) for key, default in (("start", 0), ("end", 0), ("expand_ratio", 1))
    )
    return (end - start) // max(1, ratio)


def _index(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    index = config.get("index")
    if index is None:
        return None
    if isinstance(index, str) or not isinstance(index, Sequence) or not all(is_int(i) for i in index):
        raise ConfigError(f"'index' of the channel {config.get('name')!r} must be a list of integers, got {index!r}")
    return tuple(index)


def _string(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(f"{key!r} of a channel must be a string, got {value!r}")
    return value


def _boolean(config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise ConfigError(f"{key!r} of the channel {config.get('name')!r} must be true or false, got {value!r}")
    return value


def _integer(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not is_int(value):
        raise ConfigError(f"{key!r} of the channel {config.get('name')!r} must be an integer, got {value!r}")
    return value
