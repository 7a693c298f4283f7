"""Which choices evaluation runs at, from what users write."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutators.held import Held
from lightning_channels.samplers import Choices, read_choices

__all__ = ["EvalChoices", "Held", "read_eval_choices"]

_NAMES = ("max", "min", "current")

EvalChoices: TypeAlias = "str | Choices | None"


def read_eval_choices(value: Any) -> EvalChoices:
    """``"max"``, ``"min"``, ``"current"``, choices, or None for the default.

    Raises:
        ConfigError: If it is none of these.
    """
    if value is None or (isinstance(value, str) and value in _NAMES):
        return value
    is_path = isinstance(value, os.PathLike) or str(value).endswith((".yaml", ".yml", ".json"))
    if is_path or isinstance(value, Mapping):
        return read_choices(value)
    hint = did_you_mean(value, _NAMES) or "."
    raise ConfigError(
        f"eval_choices must be one of {', '.join(_NAMES)}, a dict of choices or the path of such a file, "
        f"got {value!r}{hint}"
    )
