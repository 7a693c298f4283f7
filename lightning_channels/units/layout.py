"""Where a unit's channels are: from a tracer's group, from a template, and back into one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError, check_keys
from lightning_channels.units.channel import Channel, num_channels_in

if TYPE_CHECKING:
    from lightning_channels.tracing import Group
    from lightning_channels.units.base import MutableChannelUnit

__all__ = ["channels_template", "describe", "fill_from_config", "fill_from_group", "num_channels_of"]

_KEYS = ("input_related", "output_related", "attributes", "groups", "reduced", "exact", "inexact", "reason")


def fill_from_group(unit: MutableChannelUnit, group: Group) -> None:
    """Give a unit the channels and constraints that a tracer found."""
    for run in group.runs:
        tensor, dim = run.side.bare or (None, 0)
        index = None if run.index is None else tuple(run.index)
        channel = Channel(
            run.side.module, run.start, run.end, True, run.expand_ratio, index, tensor, dim, crossing=group.crossing
        )
        if run.side.is_output:
            unit.output_related.append(channel)
        if run.side.is_input:
            unit.input_related.append(dataclasses.replace(channel, is_output_channel=False))
    for run in group.attributes:
        index = None if run.index is None else tuple(run.index)
        channel = Channel(run.side.module, run.start, run.end, False, run.expand_ratio, index)
        unit.attributes.append(dataclasses.replace(channel, attribute=run.side.key, crossing=group.crossing))
    unit.groups = group.tile
    unit.reduced = group.pin is None and group.inexact is not None and not unit.input_related
    unit.exact, unit.inexact = group.inexact is None, group.inexact
    unit.reason = None if group.pin is None else str(group.pin)


def fill_from_config(unit: MutableChannelUnit, config: Mapping[str, Any]) -> None:
    """Give a unit the channels and constraints of a template.

    Raises:
        ConfigError: If a key is unknown or a value is not allowed.
    """
    check_keys(config, _KEYS, "the channels of a unit's config")
    for key, is_output, target in (
        ("output_related", True, unit.output_related),
        ("input_related", False, unit.input_related),
        ("attributes", False, unit.attributes),
    ):
        target += [Channel.init_from_cfg(entry, unit.num_channels, is_output) for entry in _entries(config, key)]
    if not unit.channels:
        raise ConfigError(f"a unit's channels must name some under output_related or input_related, got {config!r}")
    if any(channel.attribute is None for channel in unit.attributes):
        raise ConfigError(f"every channel under attributes of unit {unit.name!r} needs an 'attribute'")
    if any(channel.attribute is not None for channel in unit.channels):
        raise ConfigError(f"a channel of unit {unit.name!r} has an 'attribute'; it belongs under attributes")
    reduced = config.get("reduced", False)
    groups, exact = config.get("groups", 1), config.get("exact", True)
    inexact, reason = config.get("inexact"), config.get("reason")
    if not is_int(groups) or groups < 1 or unit.num_channels % groups:
        raise ConfigError(f"groups of unit {unit.name!r} must divide its {unit.num_channels} channels, got {groups!r}")
    if (
        not isinstance(exact, bool)
        or not isinstance(reduced, bool)
        or not isinstance(inexact, str | None)
        or not isinstance(reason, str | None)
    ):
        raise ConfigError(f"unit {unit.name!r}: exact and reduced must be true or false, inexact and reason strings")
    unit.groups, unit.exact, unit.inexact, unit.reason = groups, exact, inexact, reason
    unit.reduced = reduced


def _entries(config: Mapping[str, Any], key: str) -> list[Any]:
    entries = config.get(key)
    if entries is None:
        return []
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        raise ConfigError(f"{key} of a unit's channels must be a list, got {entries!r}")
    return list(entries)


def num_channels_of(config: Mapping[str, Any]) -> int:
    """How many channels a unit has whose template says no more than where they are.

    Raises:
        ConfigError: If it doesn't say where they end.
    """
    check_keys(config, _KEYS, "the channels of a unit's config")
    for entry in (*_entries(config, "output_related"), *_entries(config, "input_related")):
        number = num_channels_in(entry) if isinstance(entry, Mapping) else None
        if number is not None:
            return number
    raise ConfigError("a unit's config needs init_args with num_channels, or channels with start and end")


def channels_template(unit: MutableChannelUnit) -> dict[str, Any]:
    """A unit's channels as plain data; what the reference has no keys for is there only where it is needed."""
    template: dict[str, Any] = {
        "input_related": [channel.config_template() for channel in unit.input_related],
        "output_related": [channel.config_template() for channel in unit.output_related],
    }
    if unit.attributes:
        template["attributes"] = [channel.config_template() for channel in unit.attributes]
    if unit.groups > 1:
        template["groups"] = unit.groups
    if unit.reduced:
        template["reduced"] = True
    if not unit.exact:
        template["exact"] = False
    if unit.inexact is not None:
        template["inexact"] = unit.inexact
    # what is the model's input or output is seen to be from its channels
    if unit.reason is not None and unit.output_related and (unit.input_related or unit.reduced):
        template["reason"] = unit.reason
    return template


def describe(unit: MutableChannelUnit) -> str:
    """A unit as it prints."""
    lines = [f"{type(unit).__name__}(", f"  name={unit.name}"]
    for title, channels in (("output_related", unit.output_related), ("input_related", unit.input_related)):
        rows = [f"    ({i}): {channel!r}" for i, channel in enumerate(channels)]
        lines += [f"  ({title}): ModuleList(", *rows, "  )"] if rows else [f"  ({title}): ModuleList()"]
    if unit.attributes:
        lines += ["  (attributes): ModuleList(", *(f"    ({i}): {c!r}" for i, c in enumerate(unit.attributes)), "  )"]
    return "\n".join([*lines, f"  (mutable_channel): {unit.mutable_channel!r}", ")"])
