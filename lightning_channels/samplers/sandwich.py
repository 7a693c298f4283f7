"""The sandwich rule: several subnets on the same batch."""

from __future__ import annotations

from typing import Any, Literal

from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.registry import SAMPLERS
from lightning_channels.samplers.protocol import Choices, generator_for
from lightning_channels.samplers.ratios import RatioDraws, RatiosLike

__all__ = ["SandwichSampler"]

_REDUCTIONS = ("sum", "mean")


@SAMPLERS.register("sandwich")
class SandwichSampler:
    """Trains the widest, the narrowest and some random subnets on each batch.

    What is best for the widest and for the narrowest subnet bounds all that lies between, so these two are in every
    step (Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019). Their losses are
    added, as in the paper and its code; OpenMMLab's configurations of AutoSlim average them.

    Args:
        n_random: Number of random subnets.
        ratios: Widths, as parts of a unit's channels; their largest and smallest make the widest and the narrowest
            subnet. By default whatever a unit allows, down to a single channel. By pattern, as for ``random``.
        shared: Draw one ratio for all units at once (one for each pattern); only with ``ratios`` or ``min_ratio``.
        min_ratio: Any part from this one to 1, in place of ``ratios``: 0.25 in the paper.
        reduction: ``"sum"`` or ``"mean"`` of the losses.

    Raises:
        ConfigError: If an argument isn't allowed.
    """

    def __init__(
        self,
        n_random: int = 2,
        ratios: RatiosLike = None,
        shared: bool = False,
        min_ratio: float | None = None,
        reduction: Literal["sum", "mean"] = "sum",
    ) -> None:
        if not is_int(n_random) or n_random < 0:
            raise ConfigError(f"the sandwich sampler's n_random must be an integer of at least 0, got {n_random!r}")
        if reduction not in _REDUCTIONS:
            hint = did_you_mean(str(reduction), _REDUCTIONS)
            raise ConfigError(f"the sandwich sampler's reduction must be 'sum' or 'mean', got {reduction!r}{hint}")
        self._draws = RatioDraws("sandwich", ratios, shared, min_ratio)
        self.n_random = n_random
        self.ratios = ratios
        self.shared = shared
        self.min_ratio = min_ratio
        self.reduction = reduction

    def choices(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> Choices:
        """The widest, whose outputs the others learn."""
        return self._draws.widest(mutator)

    def passes(self, mutator: Any, *, seed: int, epoch: int, batch_idx: int) -> list[Choices]:
        """The widest, the narrowest and the random ones, in the order in which they run."""
        rng = generator_for(seed, epoch, batch_idx)
        drawn = [self._draws.draw(mutator, rng) for _ in range(self.n_random)]
        return [self._draws.widest(mutator), self._draws.narrowest(mutator), *drawn]
