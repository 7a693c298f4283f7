"""The structure of a prepared model as plain data: what a checkpoint and the file beside it hold.

.. code-block:: yaml

    version: 1
    template: {type: ChannelMutator, channel_unit_cfg: …, parse_cfg: {type: Config, costs: …}}
    choices: {conv1_(0, 64)_64: 32, …}
    fingerprint: {tensors: {conv1.weight: [64, 3, 7, 7], …}, classes: {conv1: Conv2d, …}, units: 5f70bf18…}
    kept: …   # and order, where channels are kept that aren't the first ones: see lightning_channels.mutators.kept

Nothing in it is ever imported or called; types are names in our registry. Its units are taken without a trace because
they were proven when it was made, so they must be those: ``units`` is a digest of their channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_channels._modules import named_modules_of, named_tensors_of
from lightning_channels._plain import is_int, is_number, to_plain
from lightning_channels.dynamic_ops import is_dynamic
from lightning_channels.dynamic_ops.attributes import attribute_sizes
from lightning_channels.dynamic_ops.spec import spec_of
from lightning_channels.errors import StructureError, check_complete, check_keys, did_you_mean
from lightning_channels.mutators.kept import OPTIONAL, check_lists, take_lists
from lightning_channels.units import Channel, MutableChannelUnit
from lightning_channels.units.layout import channels_template

__all__ = ["VERSION", "check", "check_fingerprint", "dump", "fingerprint", "load"]

VERSION = 1
_KEYS = ("version", "template", "choices", "fingerprint")


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and all(map(is_int, value))


_PRINTED: dict[str, tuple[str, Callable[[object], bool]]] = {
    "tensors": ("a list of integers", _is_shape),
    "classes": ("a string", lambda value: isinstance(value, str)),
    "attributes": ("an integer", lambda value: value is None or is_int(value)),
}
"""The dicts in a fingerprint, and what their values are."""


def dump(
    template: dict[str, Any], costs: dict[str, Any], choices: Mapping[str, int | float], print_: dict[str, Any]
) -> dict[str, Any]:
    """Put a structure together; its template finds units without a tracer: by their channels, or in the model."""
    units = {name: dict(unit) for name, unit in template["channel_unit_cfg"]["units"].items()}
    lists = take_lists(units)
    template = {**template, "channel_unit_cfg": {**template["channel_unit_cfg"], "units": units}}
    predefined = template["parse_cfg"]["type"] == "Predefined"
    parse_cfg: dict[str, Any] = {"type": "Predefined" if predefined else "Config"}
    if costs:
        parse_cfg["costs"] = to_plain(costs)
    return {
        "version": VERSION,
        "template": {**template, "parse_cfg": parse_cfg},
        "choices": dict(choices),
        "fingerprint": {**to_plain(print_), "units": _digest(_mutable(template, choices))},
        **lists,
    }


def _mutable(template: Mapping[str, Any], choices: Iterable[str]) -> dict[str, Any]:
    """The channels of the units that can change, which are those with choices."""
    units = template["channel_unit_cfg"]["units"]
    return {name: units[name]["channels"] for name in choices}


def _digest(channels: Mapping[str, Mapping[str, Any]]) -> str:
    """Changes with everything about the units' channels but the text that says why one is inexact."""
    told = {name: {key: value for key, value in unit.items() if key != "inexact"} for name, unit in channels.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def load(data: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Template (with the structure's choices in it) and fingerprint of a structure.

    Raises:
        StructureError: If it isn't one.
    """
    plain = _checked(data)
    template, units = plain["template"], _units_of(plain)
    take_lists(units)  # as the choices there, they don't count
    for name, choice in plain["choices"].items():
        if name not in units:
            raise StructureError(
                f"the structure has a choice for the unit {name!r}, but no such unit{did_you_mean(name, units)}"
            )
        units[name]["choice"] = choice
        units[name] |= {key: plain[key][name] for key in OPTIONAL if name in plain.get(key, {})}
    return template, plain["fingerprint"]


def _checked(data: Any) -> dict[str, Any]:
    plain: dict[str, Any] = to_plain(data, "structure")
    check_keys(plain, (*_KEYS, *OPTIONAL), "a structure", StructureError)
    check_complete(plain, _KEYS, "the structure", StructureError)
    if plain["version"] != VERSION:
        raise StructureError(
            f"the structure has version {plain['version']!r}; this release reads version {VERSION}. Take the release "
            "that wrote it, or trace the model anew"
        )
    for key in ("template", "choices", "fingerprint"):
        if not isinstance(plain[key], dict):
            raise StructureError(f"{key!r} of a structure must be a dict, got {type(plain[key]).__name__}")
    for name, choice in plain["choices"].items():
        if not is_number(choice):
            raise StructureError(f"the structure's choice of {name!r} must be a number, got {choice!r}")
    check_lists(plain)
    _check_print(plain["fingerprint"])
    _units_of(plain)
    return plain


def _check_print(given: dict[str, Any]) -> None:
    """Check the form of a fingerprint."""
    where, advice = "the structure's fingerprint", "take the structure as it was written"
    check_keys(given, (*_PRINTED, "units"), where, StructureError)
    check_complete(given, ("tensors", "classes", "units"), where, StructureError, advice)
    if not isinstance(given["units"], str):
        raise StructureError(f"'units' of {where} must be a string, got {given['units']!r}")
    for key, (what, fits) in _PRINTED.items():
        known = given.get(key, {})
        wrong = known if not isinstance(known, dict) else next((v for v in known.values() if not fits(v)), None)
        if not isinstance(known, dict) or wrong is not None:
            raise StructureError(f"{key!r} of {where} must be a dict, name → {what}, got {wrong!r}")


def _units_of(plain: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The units of a structure's template, each a dict."""
    config = plain["template"].get("channel_unit_cfg")
    units = config.get("units") if isinstance(config, dict) else None
    if not isinstance(units, dict) or not all(isinstance(unit, dict) for unit in units.values()):
        raise StructureError(
            "the structure's template must hold its units, a dict under channel_unit_cfg, name → {init_args, channels, "
            "choice}"
        )
    return units


def fingerprint(model: nn.Module, units: list[MutableChannelUnit]) -> dict[str, Any]:
    """Shapes of all tensors, class names of the modules that own some, and the integers that follow channels."""
    tensors = {name: list(t.shape) for name, t in named_tensors_of(model)}
    owners = {name.rpartition(".")[0] for name in tensors}
    found: dict[str, Any] = {
        "tensors": tensors,
        "classes": {name: _class_name(m) for name, m in named_modules_of(model) if name in owners},
    }
    modules = dict(named_modules_of(model))
    followers = [c for unit in units if unit.is_mutable for c in unit.attributes if c.name in modules]
    if followers:
        found["attributes"] = {c.label: attribute_sizes(modules[c.name]).get(c.attribute or "") for c in followers}
    return found


def _class_name(module: nn.Module) -> str:
    cls = type(module)
    if is_dynamic(module):
        cls = next(base for base in cls.__mro__ if not base.__module__.startswith("lightning_channels."))
    # sync_batchnorm=True exchanges one for the other, and changes neither tensors nor channels
    is_torchs = cls.__module__ == _BatchNorm.__module__ and issubclass(cls, _BatchNorm)
    return "BatchNorm" if is_torchs else cls.__name__


def check_fingerprint(expected: Mapping[str, Any], model: nn.Module, units: list[MutableChannelUnit]) -> None:
    """Compare the modules of all mutable units with a structure's fingerprint.

    A module that is on no mutable unit, such as a new head, may differ.

    Raises:
        StructureError: If a class or a size differs (the message names units and modules), or if the units' channels
            aren't those that the structure was made with.
    """
    if not expected:
        return
    now = fingerprint(model, units)
    modules = dict(named_modules_of(model))
    differing = []
    for unit in units:
        if not unit.is_mutable:
            continue
        for channel in unit.attributes:
            was, is_ = (known.get("attributes", {}).get(channel.label) for known in (expected, now))
            if was != is_:
                differing.append(f"{unit.name!r}: {channel.label} was {was} and is {is_}")
        for channel in unit.channels:
            was, is_ = expected["classes"].get(channel.name), now["classes"].get(channel.name)
            if was != is_:
                differing.append(f"{unit.name!r}: {channel.label} was a {was} and is a {is_}")
                continue
            if channel.name not in modules:
                differing.append(f"{unit.name!r}: {channel.label} is another name of a module that is shared")
                continue
            for name, dim in _dims(modules[channel.name], channel):
                old, new = expected["tensors"].get(name), now["tensors"].get(name)
                if old is None and new is None:
                    continue  # tied to a tensor that bears another name
                if old is None or new is None or len(old) <= dim or old[dim] != new[dim]:
                    differing.append(f"{unit.name!r}: {name} was {old} and is {new}")
    if differing:
        shown = "; ".join(dict.fromkeys(differing[:8]))
        raise StructureError(
            f"the structure doesn't fit the model: {shown}. Use it with the model that it was made from"
        )
    if _digest({unit.name: channels_template(unit) for unit in units if unit.is_mutable}) != expected["units"]:
        raise StructureError(
            "the channels of the structure's units were changed since it was made, so they aren't the proven ones. "
            "Take it as it was written (choices and init_args may be edited), or trace the model anew"
        )


def _dims(module: nn.Module, channel: Channel) -> list[tuple[str, int]]:
    """(tensor name, dim) of all tensors on one side of a module."""
    prefix = f"{channel.name}." if channel.name else ""
    if channel.tensor is not None:
        return [(f"{prefix}{channel.tensor}", channel.dim)]
    spec = spec_of(module)
    if spec is None:
        return []
    is_output = channel.is_output_channel
    sides = {key for key, role in spec.sides.items() if (role.is_output if is_output else role.is_input)}
    own = {**module._parameters, **module._buffers}
    return [
        (f"{prefix}{attribute}", d)
        for attribute, dims in spec.tensors.items()
        for d, side in enumerate(dims)
        if side in sides and own.get(attribute) is not None
    ]


def check(data: Mapping[str, Any], units: list[MutableChannelUnit]) -> dict[str, dict[str, Any]]:
    """What a structure says of the units, after comparing its mutable units with those of a model.

    Returns:
        For each unit its choice, and what it keeps and in which order, as in a unit's config.

    Raises:
        StructureError: If it isn't a structure, or if its units differ; the message names them.
    """
    plain = _checked(data)
    stored = {name: unit for name, unit in _units_of(plain).items() if name in plain["choices"]}
    here = {unit.name: unit for unit in units}
    differing = [f"{name!r} is in the checkpoint but not in the model" for name in stored if name not in here]
    differing += [f"{name!r} is in the model but not in the checkpoint" for name in here if name not in stored]
    for name, unit in here.items():
        if name in stored and _facts(stored[name]) != _facts(unit.config_template(with_channels=True)):
            differing.append(f"{name!r} has other channels in the checkpoint than in the model")
    if differing:
        more = f" and {len(differing) - 8} more" if len(differing) > 8 else ""
        raise StructureError(f"the checkpoint's units don't fit the model: {'; '.join(differing[:8])}{more}")
    for name, unit in here.items():
        _check_rounding(unit, stored[name].get("init_args"), plain["choices"][name])
    return {
        name: {"choice": choice, **{key: plain[key][name] for key in OPTIONAL if name in plain.get(key, {})}}
        for name, choice in plain["choices"].items()
    }


def _check_rounding(unit: MutableChannelUnit, was: Any, choice: int | float) -> None:
    """Refuse a choice that other arguments, such as another machine's divisor, would turn into another one."""
    now = unit.init_args()
    if not isinstance(was, dict) or was == now or unit.choice_of(unit.check_choice(choice)) == choice:
        return
    changed = ", ".join(f"{key}={was[key]!r}, not {now[key]!r}" for key in now if key in was and was[key] != now[key])
    raise StructureError(
        f"the checkpoint's units don't fit the model: {unit.name!r} was made with {changed}, which turns its choice "
        f"{choice!r} into {unit.choice_of(unit.check_choice(choice))!r}. Prepare the model with the same arguments"
    )


def _facts(unit: Mapping[str, Any]) -> Any:
    """What must agree: where a unit's channels are. Why a proof was not exact is no difference."""
    channels = unit.get("channels")
    if not isinstance(channels, dict):
        return None
    return {key: channels.get(key) for key in ("input_related", "output_related", "attributes", "groups")}
