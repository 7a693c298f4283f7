"""What a sampler is: a pure function of (seed, epoch, batch index).

It keeps no state, so that all ranks draw the same choices without talking to each other and a resumed run draws the
same ones as an uninterrupted run.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from lightning_channels.units.choosing import Choice

__all__ = ["Choices", "Sampler", "generator_for", "passes_of"]

Choices: TypeAlias = Mapping[str, Choice]
"""Unit name → number of channels or ratio, or which channels to keep."""


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


def passes_of(sampler: Sampler, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> list[Choices]:
    """The choices of all passes of a step: those of a sampler's ``passes``, or its only ones."""
    passes = getattr(sampler, "passes", None)
    if passes is None:
        return [sampler.choices(mutator, seed=seed, epoch=epoch, batch_idx=batch_idx)]
    return list(passes(mutator, seed=seed, epoch=epoch, batch_idx=batch_idx))
