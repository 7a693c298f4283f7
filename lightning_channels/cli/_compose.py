"""From what a user names on the command line to a composed config."""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from lightning_channels._config import config_dir
from lightning_channels._plain import read_file, to_plain
from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["Recipe", "composed", "composed_run", "group_of", "is_config_name", "search_settings"]

_PRIMARY = "train"
_WITHOUT_MODEL = "~model"
_GIVEN = "given_on_the_command_line"
_GROUPS = ("unit", "tracer", "mutator")


class Recipe(NamedTuple):
    """What is to be built.

    Attributes:
        config: With the groups ``unit``, ``tracer`` and ``mutator``, and mostly ``model`` or ``module``.
        import_path: Of a model, where it isn't in the config.
        arguments: Overrides that are the model's arguments, for an import path.
    """

    config: Mapping[str, Any]
    import_path: str | None = None
    arguments: Sequence[str] = ()


def is_config_name(source: str) -> bool:
    """Whether one of the configs that come with the package has this name."""
    return (config_dir() / f"{source}.yaml").is_file()


def composed(source: str, overrides: Sequence[str]) -> Recipe:
    """What ``source`` describes.

    Args:
        source: Name of a config, path of a YAML file, or import path of a model.
        overrides: Hydra's overrides; for an import path the model's arguments as well.

    Raises:
        ConfigError: If there is no such source, or if it doesn't compose.
    """
    if source.endswith((".yaml", ".yml")):
        return Recipe(_compose_file(Path(source), overrides))
    if is_config_name(source):
        return Recipe(_compose_name(source, overrides))
    files = [config_dir() / "train.yaml", *config_dir().glob("model/*.yaml"), *config_dir().glob("experiment/*.yaml")]
    names = sorted(path.relative_to(config_dir()).with_suffix("").as_posix() for path in files)
    without_group = any(name.endswith(f"/{source}") for name in names)
    if "." in source and "/" not in source and not without_group:
        settings = [item for item in overrides if group_of(item) in _GROUPS]
        arguments = [item for item in overrides if item not in settings]
        return Recipe(_compose(config_dir(), _PRIMARY, [_WITHOUT_MODEL, *settings]), source, arguments)
    raise ConfigError(
        f"{source!r} is no config{did_you_mean(source, names) or '.'} Give a YAML file, a run's folder, an import path "
        f"such as torchvision.models.resnet34, or one of: {', '.join(names)}"
    )


def composed_run(path: Path, overrides: Sequence[str]) -> Recipe:
    """The config that Hydra wrote for a run, changed by overrides.

    Args:
        path: ``.hydra/config.yaml`` in the run's folder.
        overrides: As for a new run; another option of a group takes the place of all that the run had there.

    Raises:
        ConfigError: If it isn't a mapping, or if it doesn't compose.
    """
    return Recipe(_filled(_changed(_mapping(path, path), overrides, str(path))))


def search_settings(config: Mapping[str, Any], algorithm: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """What a config and overrides say of the algorithm of a search.

    Args:
        config: Perhaps with a group ``search``.
        algorithm: Its name, which goes before what the config says; evolution where neither says it.
        overrides: ``search=NAME``, and its arguments as ``search.NAME=VALUE``.

    Raises:
        ConfigError: If they don't compose.
    """
    given = to_plain(config.get("search") or {}, "search")
    named = [item.partition("=")[2] for item in overrides if item.startswith("search=")]
    name = algorithm or (named[-1] if named else None) or (None if "type" in given else "evolution")
    items = [item if item.startswith("+") else f"++{item}" for item in overrides if not item.startswith("search=")]
    if name is not None and not (config_dir() / "search" / f"{name}.yaml").is_file():
        given = {"type": name}  # registered by the user
    elif name is not None:
        items.insert(0, f"search={name}")
    return dict(to_plain(_changed({"search": given}, items, "search")["search"], "search"))


def _changed(content: dict[str, Any], overrides: Sequence[str], of: str) -> Mapping[str, Any]:
    """Overrides on a config that is composed already, and so has no list of defaults."""
    items = []
    for item in overrides:
        name, _, option = item.partition("=")
        if (config_dir() / name / f"{option}.yaml").is_file():
            content.pop(name, None)
            item = f"+{item}"
        items.append(item)
    ConfigStore.instance().store(name=_GIVEN, node=content)
    return _compose(config_dir(), _GIVEN, items, of=of)


def _compose(folder: Path, name: str, overrides: Sequence[str], of: str | None = None) -> Mapping[str, Any]:
    """Compose; ``of`` names the config where its own name tells the user nothing."""
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(folder)):
            config: Mapping[str, Any] = compose(name, list(overrides))
            return config
    except (HydraException, OmegaConfBaseException) as error:
        words = [item for item in overrides if item != _WITHOUT_MODEL]
        given = f" with {' '.join(words)}" if words else ""
        hint = _nearest(str(error), folder, name, overrides)
        reason = str(error).partition("Config search path")[0].rstrip()  # which says where this package is installed
        raise ConfigError(f"{of or name} doesn't compose{given}: {reason}{hint}") from error


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
    return _filled(_compose(config_dir(), option, overrides))


def _compose_file(path: Path, overrides: Sequence[str]) -> Mapping[str, Any]:
    """A YAML file: an option of one of our groups, a primary config, values for one, or one model."""
    content, given = _mapping(path, path), path
    path = path.resolve()
    if path.is_relative_to(config_dir()):
        return _compose_name(path.relative_to(config_dir()).with_suffix("").as_posix(), overrides)
    if "defaults" in content:
        own = [] if "hydra" in content else [f"hydra.searchpath=[file://{config_dir()}]"]
        return _filled(_compose(path.parent, path.stem, [*own, *overrides]))
    if "_target_" in content:
        content = {"model": content}
    if "model" not in content and "module" not in content:
        raise ConfigError(f"{given} describes no model: it has neither _target_, nor model or module, nor defaults")
    ConfigStore.instance().store(name=_GIVEN, node=content, group="experiment", package="_global_")
    changed = [f"~{group}" for group in _replaced(content, {item.partition("=")[0] for item in overrides})]
    if "module" in content and "module" not in (content.get("callback") or {}):
        changed.append("callback.module=null")  # the default is the example's
    return _compose(config_dir(), _PRIMARY, [f"experiment={_GIVEN}", *changed, *overrides])


def _mapping(path: Path, given: Path) -> dict[str, Any]:
    content = read_file(path)
    if not isinstance(content, dict):
        raise ConfigError(f"{given} must hold a mapping, got {type(content).__name__}")
    return content


def _replaced(content: Mapping[str, Any], overridden: Collection[str]) -> list[str]:
    """The groups whose defaults a file's content doesn't go with.

    What is complete there takes the place of the default; of other groups there are only single values. The default
    data are for the default model.
    """
    given = {name: value for name, value in content.items() if isinstance(value, Mapping)}
    found = [name for name in _GROUPS if "type" in given.get(name, {})]
    if "module" in given:
        found += [] if "model" in given else ["model"]
        found += ["module"] if "_target_" in given["module"] else []
    found += ["model"] if "model" in given else []
    if "data" not in overridden and "_target_" in given.get("data", {"_target_": None}):
        found.append("data")
    return found


def _filled(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The groups that a config lacks; one that it has only values of, but no ``type``, is filled up."""
    defaults = _compose(config_dir(), _PRIMARY, [_WITHOUT_MODEL])
    groups = {name: config.get(name) or {} for name in _GROUPS}
    filled = {
        name: group if "type" in group else {**to_plain(defaults[name]), **to_plain(group)}
        for name, group in groups.items()
    }
    return ChainMap(filled, config)  # type: ignore[arg-type]  # which is only read


def group_of(override: str) -> str:
    """The group that an override changes something in."""
    return override.lstrip("+~").split("=")[0].split(".")[0].split("@")[0]
