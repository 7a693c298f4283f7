"""Samplers of one subnet a step."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lightning_channels._plain import read_file, to_plain
from lightning_channels.errors import ConfigError
from lightning_channels.mutators.kept import read_kept
from lightning_channels.registry import SAMPLERS
from lightning_channels.samplers.protocol import Choices, generator_for
from lightning_channels.samplers.ratios import RatioDraws, RatiosLike

__all__ = ["CycleSampler", "FixedSampler", "MaxSampler", "MinSampler", "RandomSampler", "read_choices"]


@SAMPLERS.register("random")
class RandomSampler:
    """Draws each unit's choice at random.

    Args:
        ratios: Widths to draw from, as parts of a unit's channels; by default each unit draws from all that it allows.
            By pattern of units' names: ``{"layer1.*": [1.0], "*": [0.25, 0.5, 1.0]}``, where the first that matches
            counts, and units that none matches stay at their widest.
        shared: Draw one ratio for all units at once (one for each pattern); only with ``ratios`` or ``min_ratio``.
        min_ratio: Draw any part from this one to 1, in place of ``ratios``.

    Raises:
        ConfigError: If there are no ratios or one is outside (0, 1], or if ``shared`` comes without any.
    """

    def __init__(self, ratios: RatiosLike = None, shared: bool = False, min_ratio: float | None = None) -> None:
        self._draws = RatioDraws("random", ratios, shared, min_ratio)
        self.ratios = ratios
        self.shared = shared
        self.min_ratio = min_ratio

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """One random choice a unit."""
        return self._draws.draw(mutator, generator_for(seed, epoch, batch_idx))


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


@SAMPLERS.register("cycle")
class CycleSampler:
    """Trains a mutator's subnets in turn, one each batch, as those of a slimmable network.

    Args:
        ratios: For a mutator without subnets: the widths to go through, as parts of the units' channels.

    Raises:
        ConfigError: If a ratio is outside (0, 1]; and at the first step if there are neither subnets nor ratios.
    """

    def __init__(self, ratios: list[float] | None = None) -> None:
        self._steps = None if ratios is None else [RatioDraws("cycle", [ratio], True) for ratio in ratios]
        if self._steps is not None and not self._steps:
            raise ConfigError("the cycle sampler's ratios must be a list of numbers in (0, 1], got []")
        self.ratios = ratios

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """The subnet whose turn it is; every epoch begins with the next one."""
        turn = epoch + batch_idx
        if self._steps is not None:
            return self._steps[turn % len(self._steps)].widest(mutator)
        subnets = getattr(mutator, "subnets", None)
        if not subnets:
            raise ConfigError(
                "the cycle sampler goes through the subnets of a slimmable mutator, and this one has none; give it "
                "ratios, for instance [0.25, 0.5, 0.75, 1.0]"
            )
        return dict(subnets[turn % len(subnets)])


def read_choices(choices: Mapping[str, int | float] | str | os.PathLike[str]) -> Choices:
    """Choices from a dict, or from a YAML or JSON file of choices, of a structure or of a subnet.

    Args:
        choices: Unit name → choice, or a path. Where a structure or a subnet keeps other channels than the first ones,
            these are the choice.

    Raises:
        ConfigError: If the file can't be read, or if what it holds is no dict of numbers; or if a structure doesn't
            keep as many channels as its choices say.
    """
    source = "choices"
    data: Any = choices
    kept: dict[str, list[int]] = {}
    if isinstance(choices, (str, os.PathLike)):
        source = os.fspath(choices)
        data = read_file(source)
        if isinstance(data, Mapping) and isinstance(data.get("choices"), Mapping):
            structure = data.get("structure")  # a subnet's file has its choices beside it
            kept = read_kept({**structure, **data} if isinstance(structure, Mapping) else data)
            data = data["choices"]
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source} must be a dict of unit name → choice, got {type(data).__name__}")
    plain = to_plain(data, source)
    for name, choice in plain.items():
        if type(choice) not in (int, float):
            what = f"{source}: the choice of {name!r}"
            raise ConfigError(f"{what} must be a number of channels or a ratio, got {choice!r}")
    return {**plain, **kept}
