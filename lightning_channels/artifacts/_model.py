"""The plain model that is written, and the tensors and files that go with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import nn

from lightning_channels._modules import modules_of
from lightning_channels.dynamic_ops import is_dynamic
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.export.static import static_copy
from lightning_channels.units.choosing import Choice

__all__ = ["file_path", "plain_model"]


def plain_model(
    model: nn.Module, choices: Mapping[str, Choice] | None, what: str, throwaway: bool = False
) -> nn.Module:
    """The static copy of a prepared model; an exported model is its own.

    Args:
        model: Either.
        choices: For the prepared one.
        what: The function that was called, for messages.
        throwaway: Whether the copy may share what isn't cut with the model.

    Raises:
        ConfigError: If ``model`` is no module.
        PrepareError: If there are choices for a model that isn't prepared.
        ChoiceError: If a choice isn't allowed.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{what} takes a model, got {_described(model)}")
    if any(is_dynamic(module) for module in modules_of(model)):
        return static_copy(model, choices, throwaway)
    if choices:
        raise PrepareError(
            f"{what} got choices for a {type(model).__name__} that is not prepared; choices are for a prepared model, "
            "and an exported one has its widths already"
        )
    return model


def _described(given: object) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"


def file_path(path: str | os.PathLike[str], ending: str, what: str) -> Path:
    """A path with the ending of its format.

    Raises:
        ConfigError: If it has another, or is a folder.
    """
    found = Path(path)
    if found.suffix != ending:
        raise ConfigError(f"{what} writes a {ending} file, got the path {os.fspath(path)!r}")
    if found.is_dir():
        raise ConfigError(f"{what} can't write {found}: it is a folder")
    return found
