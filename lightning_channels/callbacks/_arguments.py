"""The callback's plain arguments, checked when it is made."""

from __future__ import annotations

from typing import Any, get_args

from lightning_channels._plain import is_int
from lightning_channels.callbacks._passes import Memory
from lightning_channels.errors import ConfigError

__all__ = ["check_arguments"]

_INTEGERS = ("every_n_steps", "seed", "recalibrate")
_FLAGS = ("log_resources", "prog_bar", "save_structure", "exact_resume", "update_inactive")


def check_arguments(callback: Any) -> None:
    """Refuse attributes of a callback that aren't what they must be.

    Raises:
        ConfigError: If one isn't.
    """
    _check_module(callback.module)
    for name in _INTEGERS:
        if not is_int(getattr(callback, name)):
            raise ConfigError(f"{name} must be an integer, got {getattr(callback, name)!r}")
    if callback.recalibrate < 0:
        raise ConfigError(f"recalibrate must be a number of batches, or 0, got {callback.recalibrate}")
    if callback.memory not in get_args(Memory):
        raise ConfigError(f"memory must be 'fast' or 'lean', got {callback.memory!r}")
    if callback.every_n_steps < 1:
        raise ConfigError(f"every_n_steps must be at least 1, got {callback.every_n_steps}")
    for name in _FLAGS:
        if not isinstance(getattr(callback, name), bool):
            raise ConfigError(f"{name} must be true or false, got {getattr(callback, name)!r}")
    if not (isinstance(callback.verify, bool) or callback.verify == "full"):
        raise ConfigError(f"verify must be true or false, or 'full', got {callback.verify!r}")


def _check_module(module: object) -> None:
    if module is not None and (type(module) is not str or not module):
        given = type(module).__name__ if module else repr(module)
        raise ConfigError(f"module must be the dotted name of a submodule, such as 'net', or None, got {given}")
