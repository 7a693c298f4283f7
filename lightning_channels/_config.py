"""Where the Hydra groups are, and how what they compose to becomes a mutator's template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_channels._plain import to_plain
from lightning_channels.errors import ConfigError
from lightning_channels.registry import MUTATORS, check_arguments

__all__ = ["config_dir", "examples_dir", "mutator_config"]


def config_dir() -> Path:
    """The folder of Hydra groups that comes with this package.

    Returns:
        ``lightning_channels/conf`` in an installed wheel, the repository's ``conf`` in a checkout.

    Raises:
        FileNotFoundError: If neither is there, because the installation is broken.

    Example:
        >>> (config_dir() / "unit" / "one_shot.yaml").is_file()
        True
    """
    return _shipped("conf", "train.yaml")


def examples_dir() -> Path:
    """The folder of the example code that some of the groups (``model``, ``data``) refer to.

    Returns:
        ``lightning_channels/examples`` in an installed wheel, the repository's ``examples`` in a checkout.

    Raises:
        FileNotFoundError: If neither is there, because the installation is broken.
    """
    return _shipped("examples", "train.py")


def _shipped(name: str, landmark: str) -> Path:
    package = Path(__file__).resolve().parent
    for folder in (package / name, package.parent / name):
        if (folder / landmark).is_file():
            return folder
    raise FileNotFoundError(f"{name}/ is neither in {package} nor beside it; install lightning-channels again")


def mutator_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The mutator's template that the groups ``unit``, ``tracer`` and ``mutator`` describe together.

    Args:
        config: A composed config that has these three groups; others are ignored.

    Returns:
        What ``build`` and ``ChannelPruning(mutator=...)`` take: plain dicts and lists.

    Raises:
        ConfigError: If one of the groups is missing or has no ``type``, or if the mutator takes no such argument.

    Example:
        >>> unit, tracer, mutator = {"type": "U", "divisor": 8}, {"type": "T"}, {"type": "M", "units": {}}
        >>> config = {"unit": unit, "tracer": tracer, "mutator": mutator}
        >>> mutator_config(config)["channel_unit_cfg"]
        {'type': 'U', 'default_args': {'divisor': 8}, 'units': {}}
    """
    unit, tracer, mutator = (_group(config, name) for name in ("unit", "tracer", "mutator"))
    if mutator["type"] in MUTATORS:
        # "units" stands beside the mutator's own arguments here, so it is among what may have been meant
        check_arguments(MUTATORS.get(mutator["type"]), mutator, f"mutator {mutator['type']}", ("type", "units"))
    channel_unit = {"type": unit.pop("type"), "default_args": unit, "units": mutator.pop("units", {})}
    return {"type": mutator.pop("type"), "channel_unit_cfg": channel_unit, "parse_cfg": tracer, **mutator}


def _group(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = to_plain(config[name], name) if name in config else None
    if not isinstance(group, dict) or "type" not in group:
        raise ConfigError(f"the config's group {name!r} must be a dict with a 'type', got {group!r}")
    return group
