"""Plain data: what crosses the package's borders, and the only place that reads and writes it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from lightning_channels._files import replacing
from lightning_channels.errors import ConfigError

__all__ = ["is_int", "is_number", "read_file", "to_plain", "write_file"]

_SCALARS = (str, int, float, bool, type(None))
_MAX_DEPTH = 32


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; Python takes booleans for some."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def to_plain(value: Any, where: str = "config", depth: int = 0) -> Any:
    """Copy nested data into dicts, lists and scalars.

    Args:
        value: Dicts, lists, tuples, scalars, paths, OmegaConf containers (resolved).
        where: Name of the value, for messages.
        depth: Level of nesting so far.

    Returns:
        The same data as ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` and ``None`` alone.

    Raises:
        ConfigError: If something else is in it, or if it is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise ConfigError(f"{where} is nested more than {_MAX_DEPTH} levels deep")
    if type(value) in _SCALARS:
        return value
    if type(value).__module__.startswith("omegaconf."):
        from omegaconf import OmegaConf

        return to_plain(OmegaConf.to_container(value, resolve=True), where, depth)
    if isinstance(value, Mapping):
        return {_key(k, where): to_plain(v, f"{where}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    for scalar in (bool, int, float, str):  # subclasses (numpy's float64, enums of str) lose their class
        if isinstance(value, scalar):
            return scalar(value)
    raise ConfigError(f"{where} holds a {type(value).__name__}; allowed are dict, list, str, int, float, bool and None")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"{where} has the key {key!r}; keys must be strings")
    return str(key)


def read_file(path: str | os.PathLike[str]) -> Any:
    """Read a YAML or JSON file as plain data.

    Raises:
        ConfigError: If the file is missing, has another ending, or doesn't parse; YAML tags are refused.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(f"{path} must be a .yaml, .yml or .json file")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8: {error}") from error
    try:
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid {path.suffix[1:].upper()}: {message}") from error
    return to_plain(data, str(path))


def write_file(path: str | os.PathLike[str], data: Mapping[str, Any] | Sequence[Any]) -> Path:
    """Write plain data as YAML or JSON, by the path's ending; a crash leaves the old file or the new one, never a half.

    Returns:
        The path written.

    Raises:
        ConfigError: If the ending is another one, or if the data isn't plain.
    """
    path = Path(path)
    plain = to_plain(data, path.name)
    if path.suffix == ".json":
        text = json.dumps(plain, indent=2) + "\n"
    elif path.suffix in (".yaml", ".yml"):
        text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=1000)
    else:
        raise ConfigError(f"{path} must end in .yaml, .yml or .json")
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
