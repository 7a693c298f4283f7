"""Samplers from what users write."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from lightning_channels.errors import ConfigError
from lightning_channels.registry import SAMPLERS
from lightning_channels.samplers.protocol import Choices, Sampler

__all__ = ["SamplerLike", "build_sampler"]


class _FunctionSampler:
    """Makes a sampler of a plain function."""

    def __init__(self, function: Callable[..., Choices]) -> None:
        self.function = function

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        return dict(self.function(mutator, seed=seed, epoch=epoch, batch_idx=batch_idx))


SamplerLike: TypeAlias = "str | Mapping[str, Any] | Sampler | type[Sampler] | Callable[..., Choices]"


def build_sampler(
    sampler: SamplerLike, choices: Mapping[str, int | float] | str | os.PathLike[str] | None = None
) -> Sampler:
    """Make a sampler of what a user wrote.

    Args:
        sampler: A registered name, a dict with ``type`` and arguments, a sampler, its class, or a function with the
            signature of :meth:`Sampler.choices`.
        choices: The fixed sampler's choices: a dict, or the path of a file.

    Returns:
        A sampler.

    Raises:
        ConfigError: If the name is unknown, an argument doesn't fit, or ``choices`` are missing or out of place.

    Example:
        >>> build_sampler({"type": "random", "ratios": [0.5, 1.0]}).ratios
        [0.5, 1.0]
    """
    if isinstance(sampler, (str, Mapping)):
        return _from_config(SAMPLERS.config_of(sampler, "sampler"), choices)
    if choices is not None:
        raise ConfigError("choices belong to the sampler 'fixed'; leave them out, or leave out the sampler")
    made: Any = sampler() if isinstance(sampler, type) else sampler
    if isinstance(made, Sampler):
        return made
    if callable(made):
        return _FunctionSampler(made)
    raise ConfigError(
        f"a sampler must be a name, a dict with 'type', an object with a method choices() or a function, "
        f"got {type(sampler).__name__}. Known names: {', '.join(SAMPLERS.names())}"
    )


def _from_config(config: dict[str, Any], choices: Any) -> Sampler:
    name = config.get("type")
    if choices is not None and name != "fixed":
        raise ConfigError(f"choices belong to the sampler 'fixed', not to {name!r}; leave out one of the two")
    if name == "fixed" and choices is not None:
        config = {**config, "choices": choices}
    if name == "fixed" and config.get("choices") is None:
        raise ConfigError("the sampler 'fixed' needs choices: a dict of unit name → choice, or the path of such a file")
    return cast(Sampler, SAMPLERS.build(config))
