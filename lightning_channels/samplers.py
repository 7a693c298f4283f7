"""Samplers: which choices the next step trains with.

A sampler is a pure function of (seed, epoch, batch index). It keeps no state, so that all ranks draw the same choices
without talking to each other and a resumed run draws the same ones as an uninterrupted run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from lightning_channels._plain import read_file, to_plain
from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.registry import SAMPLERS

__all__ = [
    "Choices",
    "FixedSampler",
    "MaxSampler",
    "MinSampler",
    "RandomSampler",
    "Sampler",
    "SamplerLike",
    "build_sampler",
    "generator_for",
    "read_choices",
]

Choices: TypeAlias = dict[str, "int | float"]


def generator_for(seed: int, epoch: int, batch_idx: int) -> random.Random:
    """The generator of one step: the same on every rank, in every process and on every machine.

    Example:
        >>> generator_for(0, 1, 2).random() == generator_for(0, 1, 2).random()
        True
    """
    return random.Random(f"{seed}/{epoch}/{batch_idx}")


@runtime_checkable
class Sampler(Protocol):
    """What a sampler does; any class with this method is one.

    Example:
        >>> from lightning_channels.registry import SAMPLERS
        >>> @SAMPLERS.register("every_other")
        ... class EveryOther:
        ...     def choices(self, mutator, *, seed, epoch, batch_idx):
        ...         return mutator.sample_choices("max" if batch_idx % 2 else "min")
    """

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """The choices of one step, a pure function of the arguments.

        Args:
            mutator: The prepared mutator; nothing in it is to be changed.
            seed: The run's seed.
            epoch: The current epoch.
            batch_idx: The batch's index in the epoch.

        Returns:
            A choice for each mutable unit that is to change; the others stay.
        """
        ...


@SAMPLERS.register("random")
class RandomSampler:
    """Draws each unit's choice at random.

    Args:
        ratios: Widths to draw from, as parts of a unit's channels; by default each unit draws from all that it allows.
        shared: Draw one ratio for all units at once; only with ``ratios``.

    Raises:
        ConfigError: If ``ratios`` is empty or holds something outside (0, 1], or if ``shared`` comes without it.
    """

    def __init__(self, ratios: Sequence[float] | None = None, shared: bool = False) -> None:
        if not isinstance(shared, bool):
            raise ConfigError(f"the random sampler's shared must be true or false, got {shared!r}")
        if shared and ratios is None:
            raise ConfigError("the random sampler's shared=True needs ratios, for instance [0.25, 0.5, 0.75, 1.0]")
        self.ratios = None if ratios is None else _check_ratios(ratios)
        self.shared = shared

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """One random choice a unit."""
        rng = generator_for(seed, epoch, batch_idx)
        if self.ratios is None:
            return dict(mutator.sample_choices("random", rng=rng))
        if self.shared:
            ratio = rng.choice(self.ratios)
            return {unit.name: _choice_at(unit, ratio) for unit in mutator.mutable_units}
        return {unit.name: _choice_at(unit, rng.choice(self.ratios)) for unit in mutator.mutable_units}


@SAMPLERS.register("max")
class MaxSampler:
    """Trains the widest net alone."""

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """Every unit's largest choice."""
        return dict(mutator.sample_choices("max"))


@SAMPLERS.register("min")
class MinSampler:
    """Trains the narrowest net alone."""

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """Every unit's smallest choice."""
        return dict(mutator.sample_choices("min"))


@SAMPLERS.register("fixed")
class FixedSampler:
    """Trains one given subnet.

    Args:
        choices: Unit name → choice, or the path of such a file. Units that it doesn't name are set to their largest
            choice.

    Raises:
        ConfigError: If ``choices`` is no dict of numbers.
    """

    def __init__(self, choices: Mapping[str, int | float] | str | os.PathLike[str]) -> None:
        self.fixed = read_choices(choices)

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """The given choices, the widest for units that they leave out."""
        return {**mutator.sample_choices("max"), **self.fixed}


def read_choices(choices: Mapping[str, int | float] | str | os.PathLike[str]) -> Choices:
    """Choices from a dict, or from a YAML or JSON file of choices or of a structure.

    Args:
        choices: Unit name → choice, or a path.

    Raises:
        ConfigError: If the file can't be read, or if what it holds is no dict of numbers.
    """
    source = "choices"
    data: Any = choices
    if isinstance(choices, (str, os.PathLike)):
        source = os.fspath(choices)
        data = read_file(source)
        if isinstance(data, Mapping) and isinstance(data.get("choices"), Mapping):
            data = data["choices"]
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source} must be a dict of unit name → choice, got {type(data).__name__}")
    plain: Choices = to_plain(data, source)
    for name, choice in plain.items():
        if type(choice) not in (int, float):
            raise ConfigError(f"{source}: the choice of {name!r} must be a number, got {choice!r}")
    return plain


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
    if isinstance(sampler, str):
        sampler = {"type": sampler}
    if isinstance(sampler, Mapping):
        return _from_config(to_plain(sampler, "sampler"), choices)
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
    if name is not None and name not in SAMPLERS:
        names = SAMPLERS.names()
        hint = did_you_mean(name, names) or "."
        raise ConfigError(f"unknown sampler {name!r}{hint} Known: {', '.join(names)}")
    if choices is not None and name != "fixed":
        raise ConfigError(f"choices belong to the sampler 'fixed', not to {name!r}; leave out one of the two")
    if name == "fixed" and choices is not None:
        config = {**config, "choices": choices}
    if name == "fixed" and config.get("choices") is None:
        raise ConfigError("the sampler 'fixed' needs choices: a dict of unit name → choice, or the path of such a file")
    return cast(Sampler, SAMPLERS.build(config))


def _check_ratios(ratios: Any) -> list[float]:
    if isinstance(ratios, str) or not isinstance(ratios, Sequence) or not ratios:
        raise ConfigError(f"the random sampler's ratios must be a list of numbers in (0, 1], got {ratios!r}")
    for ratio in ratios:
        if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
            raise ConfigError(f"the random sampler's ratios must lie in (0, 1], got {ratio!r}")
    return [float(ratio) for ratio in ratios]


def _choice_at(unit: Any, ratio: float) -> int | float:
    """A unit's choice at a part of its channels, in the unit's own terms."""
    if getattr(unit, "choice_mode", "number") == "ratio":
        return ratio
    return max(1, round(ratio * int(unit.num_channels)))
