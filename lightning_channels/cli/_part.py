"""Which part of a module is prepared, and where its weights are in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf
from torch import Tensor, nn

from lightning_channels.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from lightning_channels.callbacks import Stored

__all__ = ["Part", "is_model", "part_of", "place", "trains_one", "weights_into"]


class Part(NamedTuple):
    """What is prepared.

    Attributes:
        module: Dotted name of a LightningModule's submodule; None for the whole.
        structure: Its units, as a checkpoint has them.
    """

    module: str | None
    structure: dict[str, Any] | None = None


def part_of(config: Mapping[str, Any], stored: Stored | None) -> Part:
    """The part that a checkpoint has a structure of, else that which the config's callback is confined to.

    Raises:
        ConfigError: If there are several.
    """
    callback = config.get("callback")
    asked = callback.get("module") if isinstance(callback, Mapping) else None
    structures = {} if stored is None else stored.structures
    if not structures:
        return Part(asked, None if stored is None else stored.unnamed)
    if len(structures) > 1 and asked not in structures:
        names = ", ".join("null" if name is None else name for name in structures)
        raise ConfigError(f"the checkpoint has the units of several modules; choose one with callback.module=: {names}")
    name = asked if asked in structures else next(iter(structures))
    return Part(name, structures[name])


def is_model(config: Mapping[str, Any], module: str | None) -> bool:
    """Whether a config's ``model`` alone is that part: ``module`` gets it by this name, or there is no ``module``."""
    if config.get("model") is None:
        return config.get("module") is None
    if config.get("module") is None:
        return True
    return bool(OmegaConf.to_container(config["module"]).get(module) == "${model}")  # type: ignore[union-attr, arg-type]


def trains_one(config: Mapping[str, Any]) -> bool:
    """Whether a run with this config trains one subnet, rather than a supernet."""
    sampler, callback = config.get("sampler"), config.get("callback")
    fixed = isinstance(sampler, Mapping) and sampler.get("type") == "fixed"
    return fixed or (isinstance(callback, Mapping) and callback.get("target") is not None)


def place(module: nn.Module, part: Part, whole: bool, weights: Mapping[str, Tensor] | None) -> tuple[nn.Module, str]:
    """The part of a built module, and what its keys begin with in a checkpoint.

    Args:
        module: A LightningModule, or the part alone.
        part: Which.
        whole: Whether it is known to be a LightningModule.
        weights: The checkpoint's.

    Raises:
        ConfigError: If there is no such part.
    """
    prefix = "" if whole or weights is None else _prefix(module, part, weights)
    if part.module is None or prefix or not (whole or weights is not None):
        return module, prefix
    try:
        return module.get_submodule(part.module), prefix
    except AttributeError as error:
        names = [name for name, _ in module.named_modules() if name]
        raise ConfigError(
            f"{type(module).__name__} has no submodule {part.module!r}{did_you_mean(part.module, names)}"
        ) from error


def _prefix(module: nn.Module, part: Part, weights: Mapping[str, Tensor]) -> str:
    """What a module's keys begin with among a checkpoint's."""
    keys = list(module.state_dict())
    first = keys[0] if keys else ""
    found = sorted((key.removesuffix(first) for key in weights if key == first or key.endswith(f".{first}")), key=len)
    for prefix in (f"{part.module}.", *found):
        if all(f"{prefix}{key}" in weights for key in keys):
            return prefix
    raise ConfigError(
        f"the checkpoint has no weights of {type(module).__name__}: it needs {', '.join(keys[:3])}, ..., and there are "
        f"{', '.join(list(weights)[:3])}, ..."
    )


def weights_into(module: nn.Module, weights: Mapping[str, Tensor], prefix: str) -> None:
    """Load a checkpoint's weights that begin with a prefix.

    Raises:
        ConfigError: If they don't fit.
    """
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise ConfigError(f"the checkpoint's weights don't fit: {error}") from error
