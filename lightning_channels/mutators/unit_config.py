"""What a mutator's ``channel_unit_cfg`` says, checked once."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_channels._plain import read_file, to_plain
from lightning_channels.divisors import is_auto, resolve_divisor
from lightning_channels.errors import ConfigError, check_keys, did_you_mean
from lightning_channels.registry import UNITS, check_arguments
from lightning_channels.units import MutableChannelUnit

__all__ = ["UnitConfig"]

_KEYS = ("type", "default_args", "units")
_UNIT_KEYS = ("init_args", "channels", "choice", "kept", "order")


class UnitConfig:
    """Type, default arguments and per-unit settings of a mutator's units.

    Args:
        config: A unit class, its registered name, or a dict with ``type``, ``default_args`` and ``units``, which can be
            the path of a YAML or JSON file. Not changed.

    Attributes:
        unit_class: The class.
        default_args: Arguments of every unit.
        units: Unit name → its ``init_args``, ``channels``, ``choice``, ``kept`` and ``order``.

    Raises:
        ConfigError: If a key, type or argument is unknown.
    """

    def __init__(self, config: str | type | Mapping[str, Any]) -> None:
        if isinstance(config, (str, type)):
            config = {"type": config}
        if not isinstance(config, Mapping):
            raise ConfigError(f"channel_unit_cfg must be a unit class, its name or a dict with 'type', got {config!r}")
        self.unit_class = _unit_class(config.get("type", "SequentialMutableChannelUnit"))
        for key in config:
            if key not in _KEYS and key in inspect.signature(self.unit_class).parameters:
                raise ConfigError(
                    f"channel_unit_cfg has {key!r}, which is an argument of its units: write "
                    f"default_args: {{{key}: {config[key]!r}}}"
                )
        check_keys(config, _KEYS, "channel_unit_cfg")
        self.default_args: dict[str, Any] = _dict_of(config, "default_args", "channel_unit_cfg")
        units = config.get("units")
        if isinstance(units, (str, os.PathLike)):
            config = {**config, "units": _read_units(units)}
        self.units: dict[str, dict[str, Any]] = _dict_of(config, "units", "channel_unit_cfg")
        check_arguments(self.unit_class, self.default_args, f"unit type {self.type_name} (default_args)")
        if is_auto(self.default_args.get("divisor")):  # a template holds the number: it may be read on another machine
            self.default_args["divisor"] = resolve_divisor(self.default_args["divisor"])
        for name, unit in self.units.items():
            self._check_unit(name, unit)

    def _check_unit(self, name: str, unit: Any) -> None:
        what = f"the config of unit {name!r}"
        check_keys(unit, _UNIT_KEYS, what)
        check_arguments(self.unit_class, _dict_of(unit, "init_args", what), f"unit {name!r} ({self.type_name})")
        _dict_of(unit, "channels", what)

    @property
    def type_name(self) -> str:
        """The registered name of the class, or its own."""
        return UNITS.name_of(self.unit_class) or self.unit_class.__name__

    def args_of(self, name: str) -> dict[str, Any]:
        """Arguments of one unit: its own over the defaults."""
        return {**self.default_args, **(self.units.get(name, {}).get("init_args") or {})}

    def check_names(self, known: Iterable[str]) -> None:
        """Refuse settings for units that the model doesn't have.

        Raises:
            ConfigError: If there are any; the message names the nearest match.
        """
        known = list(known)
        for name in self.units:
            if name not in known:
                raise ConfigError(
                    f"channel_unit_cfg has settings for the unit {name!r}, which the model doesn't have"
                    f"{did_you_mean(name, known) or '.'} It has {len(known)} units"
                )


def _dict_of(config: Mapping[str, Any], key: str, what: str) -> dict[str, Any]:
    """The dict under a key, copied; an empty one where there is none.

    Raises:
        ConfigError: If there is something else.
    """
    value = config.get(key)
    plain = {} if value is None else to_plain(value, key)
    if not isinstance(plain, dict):
        path = " or the path of a file" if key == "units" else ""
        raise ConfigError(f"{key} of {what} must be a dict{path}, got {plain!r}")
    return plain


def _read_units(path: str | os.PathLike[str]) -> Any:
    """The units of a file: a dict of them, or a mutator's template, of which they are taken."""
    data = read_file(path)
    if isinstance(data, dict) and "channel_unit_cfg" in data:
        inside = data["channel_unit_cfg"]
        data = inside.get("units") or {} if isinstance(inside, dict) else None
    if not isinstance(data, dict) or not all(isinstance(unit, dict) for unit in data.values()):
        raise ConfigError(
            f"{os.fspath(path)} must hold a dict, unit name → {{init_args, channels, choice}}, or a mutator's template"
        )
    return data


def _unit_class(given: Any) -> type[MutableChannelUnit]:
    if isinstance(given, type):
        if not issubclass(given, MutableChannelUnit):
            raise ConfigError(f"{given.__name__} is no MutableChannelUnit")
        return given
    found: type[MutableChannelUnit] = UNITS.get(given)
    return found
