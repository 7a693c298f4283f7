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
from lightning_channels._parsing import parse_json, parse_yaml
from lightning_channels.errors import ConfigError

__all__ = ["is_int", "is_number", "read_file", "to_plain", "write_file"]

_SCALARS = (str, int, float, bool, type(None))
_MAX_DEPTH = 32
_MAX_VALUES = 1_000_000
_MAX_INT = 2**63
_MAX_BYTES = 16 << 20


def is_int(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; Python takes booleans for some."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number, and no boolean."""
    return is_int(value) or (isinstance(value, float) and math.isfinite(value))


def to_plain(value: Any, where: str = "config", max_values: int = _MAX_VALUES) -> Any:
    """Copy nested data into dicts, lists and scalars.

    Args:
        value: Dicts, lists, tuples, scalars, paths, OmegaConf containers (resolved).
        where: Name of the value, for messages.
        max_values: How many values it may hold.

    Returns:
        The same data as ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool`` and ``None`` alone.

    Raises:
        ConfigError: If something else is in it, if a number is not finite or has more than 64 bits, or if it is nested
            too deeply or too large; what is in it twice counts twice.
    """
    return _Copy(where, max_values).of(value, ())


class _Copy:
    """One copy: counts what it holds."""

    def __init__(self, where: str, max_values: int) -> None:
        self._where = where
        self._most = self._left = max_values

    def of(self, value: Any, path: tuple[Any, ...]) -> Any:
        """Copy what is at a path."""
        self._left -= 1
        if self._left < 0:
            raise ConfigError(f"{self._where} holds more than {self._most:,} values")
        if len(path) > _MAX_DEPTH:
            raise ConfigError(f"{self._where} is nested more than {_MAX_DEPTH} levels deep")
        if type(value) in _SCALARS:
            return self._number(value, path) if type(value) in (int, float) else value
        if type(value).__module__.startswith("omegaconf."):
            from omegaconf import OmegaConf

            return self.of(OmegaConf.to_container(value, resolve=True), path)
        if isinstance(value, Mapping):
            return {self._key(key, path): self.of(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.of(item, (*path, at)) for at, item in enumerate(value)]
        if isinstance(value, Path):
            return str(value)
        for scalar in (bool, int, float, str):  # subclasses (numpy's float64, enums of str) lose their class
            if isinstance(value, scalar):
                return self.of(scalar(value), path)
        raise ConfigError(
            f"{self._at(path)} holds a {type(value).__name__}; allowed are dict, list, str, int, float, bool and None"
        )

    def _number(self, value: int | float, path: tuple[Any, ...]) -> int | float:
        if isinstance(value, int):
            if not -_MAX_INT <= value < _MAX_INT:
                raise ConfigError(f"{self._at(path)} is a whole number of more than 64 bits")
        elif not math.isfinite(value):
            raise ConfigError(f"{self._at(path)} is {value!r}; numbers must be finite")
        return value

    def _key(self, key: Any, path: tuple[Any, ...]) -> str:
        if not isinstance(key, str):
            raise ConfigError(f"{self._at(path)} has the key {key!r}; keys must be strings")
        return str(key)

    def _at(self, path: tuple[Any, ...]) -> str:
        return self._where + "".join(f"[{part!r}]" for part in path)


def read_file(path: str | os.PathLike[str], *, max_bytes: int = _MAX_BYTES, max_values: int = _MAX_VALUES) -> Any:
    """Read a YAML or JSON file as plain data; nothing in it is imported or run.

    Args:
        path: The file.
        max_bytes: How large it may be; widths and units take less than the default of 16 MiB.
        max_values: How many values it may hold.

    Raises:
        ConfigError: If the file is missing, has another ending, is larger than that or doesn't parse; YAML tags, keys
            that are there twice, and aliases that make far more of a file than is in it, are refused.
    """
    path = Path(path)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise ConfigError(f"{path} must be a .yaml, .yml or .json file")
    try:
        text = _text_of(path, max_bytes)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8: {error}") from error
    try:
        data = parse_json(text) if path.suffix == ".json" else parse_yaml(text, _MAX_DEPTH, max_values)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        message = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid {path.suffix[1:].upper()}: {message}") from error
    return to_plain(data, str(path), max_values)


def _text_of(path: Path, max_bytes: int) -> str:
    if path.exists() and not path.is_file():  # a device or a pipe has no end
        raise ConfigError(f"cannot read {path}: it is no regular file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ConfigError(f"{path} is larger than {max_bytes >> 20} MiB, which no file of its kind is")
    return content.decode("utf-8")


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
