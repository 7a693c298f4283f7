"""Packages of the extra ``export``, imported when they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from lightning_channels.errors import ConfigError

__all__ = ["needed"]


def needed(package: str, what: str) -> Any:
    """Import a package that isn't always there.

    Args:
        package: Its name, or that of a module in it.
        what: What needs it, in the plural, for the message.

    Raises:
        ConfigError: If it isn't installed; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        top = package.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != top:
            raise  # it is there, and something that it needs isn't
        raise ConfigError(f"{what} need {top}; pip install 'lightning-channels[export]'") from None
