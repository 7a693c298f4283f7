"""From a composed config, or an import path, to a model, a LightningModule and its data."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from lightning_channels.cli._compose import Recipe
from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["DATA", "data_of", "has_group", "model_of", "module_of"]

DATA = ("datamodule", "data")
"""The groups that may hold a LightningDataModule; the first one counts."""


def has_group(config: Mapping[str, Any], *names: str) -> bool:
    """Whether a config says anything of one of these."""
    return any(config.get(name) is not None for name in names)


def model_of(recipe: Recipe) -> nn.Module:
    """The model of an import path, or of a config's ``model``.

    Raises:
        ConfigError: If there is none, or if it cannot be built.
    """
    if recipe.import_path is not None:
        return _from_import_path(recipe.import_path, _arguments(recipe.arguments))
    if not has_group(recipe.config, "model"):
        raise ConfigError("the config has no group 'model'")
    return _check_module(_built(recipe.config, "model"), "the config's model")


def module_of(recipe: Recipe, part: str | None = None) -> Any:
    """The LightningModule of a config's ``module``, with all of its submodules.

    Args:
        recipe: With the config.
        part: Dotted name of the submodule that is needed.

    Raises:
        ConfigError: If there is none, or if it cannot be built.
    """
    from lightning_channels.callbacks import is_lightnings, overrides  # Lightning takes its time

    if recipe.import_path is not None or not has_group(recipe.config, "module"):
        raise ConfigError(
            f"{recipe.import_path or 'the config'} says of no LightningModule how it validates; give a config with "
            "module: {_target_: ...} and datamodule: {_target_: ...}, or the folder of a run that has them"
        )
    module = _built(recipe.config, "module")
    if not is_lightnings(module, "LightningModule"):
        raise ConfigError(f"the config's module is a {type(module).__name__}, not a LightningModule")
    if overrides(module, "configure_model"):
        module.configure_model()
    if _lacks_net(module, part) and overrides(module, "setup"):
        _set_up(module)
    return module


def _lacks_net(module: nn.Module, part: str | None) -> bool:
    """Whether the net isn't there yet."""
    net: Any = module
    for name in part.split(".") if part else ():
        net = getattr(net, name, None)
    return not isinstance(net, nn.Module) or next(net.parameters(), None) is None


def _set_up(module: Any) -> None:
    """Let a module build its net in ``setup``, as Lightning does; here no trainer is there for it."""
    name = type(module).__name__
    try:
        module.setup("validate")
    except Exception as error:  # whatever the user's code raises
        raise ConfigError(
            f"{name} builds its net in setup(), which fails where there is no trainer ({type(error).__name__}: "
            f"{error}). Build the net in __init__ or configure_model, or give a config with model: {{_target_: ...}} "
            "that makes the net"
        ) from error


def data_of(config: Mapping[str, Any]) -> Any:
    """The LightningDataModule of a config's ``datamodule``, or ``data``.

    Raises:
        ConfigError: If there is none, or if it cannot be built.
    """
    from lightning_channels.callbacks import is_lightnings

    name = next((name for name in DATA if has_group(config, name)), None)
    if name is None:
        raise ConfigError("the config has no data to validate on; add datamodule: {_target_: ...}")
    data = _built(config, name)
    if not is_lightnings(data, "LightningDataModule"):
        raise ConfigError(f"the config's {name} is a {type(data).__name__}, not a LightningDataModule")
    return data


def _built(config: Mapping[str, Any], name: str) -> Any:
    try:
        return instantiate(config[name], _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"the config's {name} cannot be built: {error}") from error


def _arguments(overrides: Sequence[str]) -> dict[str, Any]:
    """``["width_mult=1.5"]`` → ``{"width_mult": 1.5}``."""
    arguments = {}
    for item in overrides:
        key, _, value = item.partition("=")
        if not key.isidentifier():
            raise ConfigError(f"{item!r} is no argument of a model; write name=value")
        try:
            arguments[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value in {item!r} is no YAML: {error}") from error
    return arguments


def _from_import_path(path: str, arguments: dict[str, Any]) -> nn.Module:
    target = _resolve(path)
    if isinstance(target, nn.Module) and not arguments:
        return target
    if not callable(target) or isinstance(target, nn.Module):
        raise ConfigError(f"{path} is a {type(target).__name__}, which takes no arguments and builds no model")
    if path.startswith("torchvision."):
        # no downloads unless asked for: segmentation models fetch a pretrained backbone by default
        parameters = inspect.signature(target).parameters
        arguments = {**{key: None for key in ("weights", "weights_backbone") if key in parameters}, **arguments}
    try:
        model = target(**arguments)
    except Exception as error:  # the user's code
        raise ConfigError(f"{path} cannot be built with {arguments}: {type(error).__name__}: {error}") from error
    return _check_module(model, path)


def _resolve(path: str) -> Any:
    try:
        return pkgutil.resolve_name(path)
    except Exception as error:  # importing runs the user's code, which may fail in any way
        module, _, name = path.rpartition(".")
        try:
            known = dir(importlib.import_module(module))
        except Exception:
            known = []
        what = str(error) if isinstance(error, (ImportError, AttributeError)) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"cannot import {path}: {what}{did_you_mean(name, known)}") from error


def _check_module(model: Any, what: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{what} is a {type(model).__name__}, not a torch.nn.Module")
    return model
