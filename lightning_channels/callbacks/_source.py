"""Where the callback's mutator comes from: an object, a template, a structure, a file, or a unit's name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_channels._plain import read_file, to_plain
from lightning_channels.callbacks._checkpoints import structure_path
from lightning_channels.callbacks._stored import plain_structure
from lightning_channels.errors import ConfigError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.registry import UNITS, build
from lightning_channels.units import MutableChannelUnit

__all__ = ["MutatorSource"]


class MutatorSource:
    """Builds the mutator of a run; a fresh one for each model, unless the user gave the object itself.

    Attributes:
        recipe: How its type is pruned where the user doesn't say: ``criterion`` and ``schedule``.

    Args:
        mutator: A mutator, a template, a structure, or the path of a template, a structure or a checkpoint.
        unit: A unit type's name, its class, or a dict with ``type`` and arguments.
        module: The submodule that the callback is confined to; says which of a checkpoint's structures is meant.

    Raises:
        ConfigError: If both are given, or if one can't be read or built.
    """

    def __init__(self, mutator: Any, unit: Any, module: str | None) -> None:
        self.given: ChannelMutator | None = None
        self.structure: dict[str, Any] | None = None
        self.template: dict[str, Any] | None = None
        self.is_default = mutator is None and unit is None
        if mutator is not None and unit is not None:
            raise ConfigError("mutator and unit were both given; a mutator has its units already, so leave out one")
        if isinstance(mutator, ChannelMutator):
            self.given = mutator
        elif unit is not None:
            self.template = {"type": "ChannelMutator", "channel_unit_cfg": _unit_config(unit)}
        elif mutator is not None:
            self._read(mutator, module)
        built = self.build()  # a wrong name or argument shows now, not when the model is there
        self.recipe: Mapping[str, Any] = getattr(built, "recipe", {})

    def _read(self, mutator: Any, module: str | None) -> None:
        what = "mutator"
        if isinstance(mutator, (str, os.PathLike)):
            what = os.fspath(mutator)
            mutator = _read_path(Path(what), module)
        if isinstance(mutator, type) or not (isinstance(mutator, Mapping) or _is_omegaconf(mutator)):
            raise ConfigError(
                "mutator must be a ChannelMutator, a template or structure (dict), or the path of one or of a "
                f"checkpoint, got {mutator!r}"
            )
        plain = to_plain(mutator, what)
        if "template" in plain:
            self.structure = plain
        elif "channel_unit_cfg" in plain or "type" in plain:
            self.template = plain
        else:
            raise ConfigError(
                f"{what} is neither a template (type, channel_unit_cfg, parse_cfg) nor a structure "
                f"(version, template, choices, fingerprint): it has the keys {', '.join(plain) or 'of an empty dict'}"
            )

    def build(self) -> ChannelMutator:
        """The mutator, unprepared unless the user gave a prepared one."""
        if self.given is not None:
            return self.given
        if self.structure is not None:
            return ChannelMutator.from_structure(self.structure)
        mutator: ChannelMutator = ChannelMutator() if self.template is None else build(self.template)
        return mutator

    def fits(self, other: ChannelMutator) -> bool:
        """Whether a mutator that prepared the model before is one that this source could have built."""
        if self.given is not None:
            return self.given is other
        if self.template is None:  # anything will do; a structure is checked by loading it
            return True
        mutator = self.build()
        wanted, known = mutator.unit_config, other.unit_config
        alike = wanted.unit_class is known.unit_class and wanted.default_args == known.default_args
        return alike and isinstance(other, type(mutator))


def _unit_config(unit: Any) -> dict[str, Any]:
    if isinstance(unit, type):
        name = UNITS.name_of(unit)
        if not issubclass(unit, MutableChannelUnit):
            raise ConfigError(f"unit must be a unit type, got {unit.__name__}. Known: {', '.join(UNITS.names())}")
        if name is None:
            raise ConfigError(f"the unit class {unit.__name__} isn't registered; decorate it with @UNITS.register()")
        unit = name
    if isinstance(unit, str):
        UNITS.get(unit)
        return {"type": unit, "default_args": {}, "units": {}}
    if not (isinstance(unit, Mapping) or _is_omegaconf(unit)):
        raise ConfigError(f"unit must be a name, a class or a dict with 'type', got {unit!r}")
    plain = to_plain(unit, "unit")
    if "type" not in plain:
        raise ConfigError(
            f"the unit config needs a 'type'; it has {', '.join(plain)}. Known: {', '.join(UNITS.names())}"
        )
    UNITS.get(plain["type"])
    own = {key: plain.pop(key) for key in ("type", "default_args", "units") if key in plain}
    # whatever else is in it is an argument of the unit: {type: …, choice_mode: ratio}
    return {"units": {}, **own, "default_args": {**(own.get("default_args") or {}), **plain}}


def _is_omegaconf(value: Any) -> bool:
    return type(value).__module__.startswith("omegaconf.")


def _read_path(path: Path, module: str | None) -> Any:
    if path.suffix in (".yaml", ".yml", ".json"):
        return read_file(path)
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; give a .yaml, .yml or .json file, or a checkpoint")
    key = "ChannelPruning" if module is None else f"ChannelPruning[{module}]"
    files = [Path(structure_path(path.resolve(), name)) for name in dict.fromkeys((module, None))]
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        states = checkpoint.get("callbacks", {})
        if key in states:
            return plain_structure(states[key], key)
        others = [name for name in states if isinstance(name, str)]
        reason = f"it holds no state of {key}" + (f", only of {', '.join(others)}" if others else "")
    except Exception as error:  # torch.load raises many kinds, all of which mean: not readable as data
        reason = f"it can't be read as plain data ({' '.join(str(error).split())[:200]})"
    for beside in files:  # the checkpoint has weights only, or something else in it isn't plain data
        if beside.exists():
            return read_file(beside)
    raise ConfigError(f"no structure found in {path}: {reason}; and there is no {files[0].name} beside it")
