"""From what a user names on the command line to a composed config and a model."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from lightning_channels._config import config_dir, examples_dir
from lightning_channels._plain import read_file, to_plain
from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["load"]

_PRIMARY = "train"
_WITHOUT_MODEL = "~model"
_GIVEN = "given_on_the_command_line"
_GROUPS = ("unit", "tracer", "mutator")


def load(source: str, overrides: Sequence[str]) -> tuple[Mapping[str, Any], nn.Module]:
    """The config and the model that ``source`` names.

    Args:
        source: Name of a config, path of a YAML file, or import path of a model.
        overrides: Hydra's overrides; for an import path the model's arguments as well.

    Returns:
        A config with the groups ``unit``, ``tracer`` and ``mutator``, and the model.

    Raises:
        ConfigError: If there is no such source, or if it doesn't compose or build.
    """
    sys.path.extend(path for path in (str(Path.cwd()), str(examples_dir())) if path not in sys.path)
    if source.endswith((".yaml", ".yml")):
        return _from_config(_compose_file(Path(source), overrides))
    if (config_dir() / f"{source}.yaml").is_file():
        return _from_config(_compose_name(source, overrides))
    files = [config_dir() / "train.yaml", *config_dir().glob("model/*.yaml"), *config_dir().glob("experiment/*.yaml")]
    names = sorted(path.relative_to(config_dir()).with_suffix("").as_posix() for path in files)
    without_group = any(name.endswith(f"/{source}") for name in names)
    if "." in source and "/" not in source and not without_group:
        settings = [item for item in overrides if _is_setting(item)]
        arguments = _arguments([item for item in overrides if not _is_setting(item)])
        return _compose(config_dir(), _PRIMARY, [_WITHOUT_MODEL, *settings]), _from_import_path(source, arguments)
    raise ConfigError(
        f"{source!r} is no config{did_you_mean(source, names) or '.'} Give a YAML file, an import path such as "
        f"torchvision.models.resnet34, or one of: {', '.join(names)}"
    )


def _compose(folder: Path, name: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            config: Mapping[str, Any] = compose(name, list(overrides))
            return config
    except (HydraException, OmegaConfBaseException) as error:
        words = [item for item in overrides if item != _WITHOUT_MODEL]
        given = f" with {' '.join(words)}" if words else ""
        hint = _nearest(str(error), folder, name, overrides)
        reason = str(error).partition("Config search path")[0].rstrip()  # which says where this package is installed
        raise ConfigError(f"{name} doesn't compose{given}: {reason}{hint}") from error


def _nearest(error: str, folder: Path, name: str, overrides: Sequence[str]) -> str:
    """The nearest match of a key or an option that Hydra doesn't know."""
    option = re.search(r"Could not find '([^']+)'", error)
    if option is not None:
        folders = {folder, config_dir()}
        known = [path.relative_to(f).with_suffix("").as_posix() for f in folders for path in f.rglob("*.yaml")]
        return did_you_mean(option[1], known)
    key = re.search(r"Could not override '([^']+)'", error)
    if key is None:
        return ""
    groups = [item for item in overrides if "." not in item.partition("=")[0]]  # other values may be wrong as well
    try:
        node: Any = _compose(folder, name, groups)
    except ConfigError:
        return ""
    before = ""
    for part in key[1].split("."):
        if not isinstance(node, Mapping) or part not in node:
            known = [f"{before}{other}" for other in node] if isinstance(node, Mapping) else []
            return did_you_mean(f"{before}{part}", known)
        node, before = node[part], f"{before}{part}."
    return ""


def _compose_name(name: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    group, _, option = name.rpartition("/")
    if group:
        return _compose(config_dir(), _PRIMARY, [f"{group}={option}", *overrides])
    return _with_defaults(_compose(config_dir(), option, overrides), _compose(config_dir(), _PRIMARY, [_WITHOUT_MODEL]))


def _compose_file(path: Path, overrides: Sequence[str]) -> Mapping[str, Any]:
    """A YAML file: an option of one of our groups, a primary config, values for one, or one model."""
    content, given = read_file(path), path
    path = path.resolve()
    if not isinstance(content, dict):
        raise ConfigError(f"{given} must hold a mapping, got {type(content).__name__}")
    if path.is_relative_to(config_dir()):
        return _compose_name(path.relative_to(config_dir()).with_suffix("").as_posix(), overrides)
    if "defaults" in content:
        own = [] if "hydra" in content else [f"hydra.searchpath=[file://{config_dir()}]"]
        config = _compose(path.parent, path.stem, [*own, *overrides])
        return _with_defaults(config, _compose(config_dir(), _PRIMARY, [_WITHOUT_MODEL]))
    store = ConfigStore.instance()
    if "_target_" in content:
        store.store(name=_GIVEN, node=content, group="model")
        return _compose(config_dir(), _PRIMARY, [f"model={_GIVEN}", *overrides])
    if "model" not in content:
        raise ConfigError(f"{given} describes no model: it has neither _target_, nor model, nor defaults")
    store.store(name=_GIVEN, node=content, group="experiment", package="_global_")
    # what is complete takes the place of the default; of the other groups there are only single values
    typed = [group for group in _GROUPS if isinstance(content.get(group), dict) and "type" in content[group]]
    replaced = [f"~{group}" for group in ("model", *typed)]
    return _compose(config_dir(), _PRIMARY, [f"experiment={_GIVEN}", *replaced, *overrides])


def _with_defaults(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Mapping[str, Any]:
    """The groups that a config lacks; one that it has only values of, but no ``type``, is filled up."""
    groups = {name: config.get(name) or {} for name in _GROUPS}
    filled = {
        name: group if "type" in group else {**to_plain(defaults[name]), **to_plain(group)}
        for name, group in groups.items()
    }
    return {**filled, "model": config.get("model")}


def _from_config(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], nn.Module]:
    if config.get("model") is None:
        raise ConfigError("the config has no group 'model'")
    try:
        model = instantiate(config["model"], _convert_="all")
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"the config's model cannot be built: {error}") from error
    return config, _check_module(model, "the config's model")


def _is_setting(override: str) -> bool:
    return override.lstrip("+~").split("=")[0].split(".")[0].split("@")[0] in _GROUPS


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
    except Exception as error:
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
