"""Criteria of where a channel's weights lie among the others', and the one that looks at nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_channels._plain import is_int
from lightning_channels.criteria.base import WeightCriterion
from lightning_channels.criteria.combining import Normalizer, Reduction
from lightning_channels.criteria.tensors import GroupTensor, Kind
from lightning_channels.errors import ConfigError
from lightning_channels.registry import CRITERIA
from lightning_channels.units import MutableChannelUnit

__all__ = ["FpgmCriterion", "RandomCriterion"]


@CRITERIA.register("fpgm")
class FpgmCriterion(WeightCriterion):
    """The sum of the distances of a channel's weights to those of all others.

    What is near the geometric median of all is what the others can replace, however large it is: He et al., "Filter
    Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR 2019, for the filter alone
    (``tensors=["outputs"]``).
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        normalizer: Normalizer | None = "mean",
        tensors: Sequence[Kind] = ("outputs", "inputs"),
    ) -> None:
        super().__init__(reduction, normalizer, tensors)

    def score(self, tensor: GroupTensor) -> Tensor:
        """The sum of the Euclidean distances between each row and all rows."""
        rows = tensor.rows()
        # through a matrix product, which is the default for many rows, equal rows are not at distance 0
        return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


@CRITERIA.register("random")
class RandomCriterion:
    """Random scores, to compare the others with; a function of the seed and the unit's name.

    Mittal et al., "Recovering from Random Pruning: On the Plasticity of Deep Convolutional Neural Networks", WACV 2018.

    Args:
        seed: Another one gives other scores.

    Raises:
        ConfigError: If the seed is no integer.
    """

    def __init__(self, seed: int = 0) -> None:
        if not is_int(seed):
            raise ConfigError(f"RandomCriterion: seed must be an integer, got {seed!r}")
        self.seed = seed

    def __call__(self, unit: MutableChannelUnit) -> Tensor:
        """Scores in [0, 1) for a unit's channels."""
        digest = hashlib.sha256(f"{self.seed}/{unit.name}".encode()).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.rand(unit.num_channels, generator=generator, dtype=torch.float64, device="cpu")

    def __repr__(self) -> str:
        return f"RandomCriterion(seed={self.seed})"
