"""Criteria of the weights' size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from lightning_channels.criteria.base import WeightCriterion
from lightning_channels.criteria.combining import Normalizer, Reduction
from lightning_channels.criteria.tensors import GroupTensor, Kind
from lightning_channels.registry import CRITERIA

__all__ = ["L1Criterion", "L2Criterion", "LampCriterion"]


@CRITERIA.register("l1")
class L1Criterion(WeightCriterion):
    """The sum of the absolute weights of a channel.

    Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, for the filter alone (``tensors=["outputs"]``).
    """

    def score(self, tensor: GroupTensor) -> Tensor:
        """The L1 norm of each row."""
        return tensor.sums(tensor.values().abs())


@CRITERIA.register("l2")
class L2Criterion(WeightCriterion):
    """The sum of the squared weights of a channel: the L2 norm squared, so that the tensors' add up to the group's.

    He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018, for the filter;
    Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023, for the group.
    """

    def score(self, tensor: GroupTensor) -> Tensor:
        """The squared L2 norm of each row."""
        return tensor.sums(tensor.values().square())


@CRITERIA.register("lamp")
class LampCriterion(L2Criterion):
    """The squared weights of a channel, divided by those of all channels of the unit that are no smaller.

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, for channels in place of weights.
    The largest channel of each unit scores 1, so that no unit is cut off.
    """

    def __init__(
        self,
        reduction: Reduction = "sum",
        normalizer: Normalizer | None = "lamp",
        tensors: Sequence[Kind] = ("outputs", "inputs"),
    ) -> None:
        super().__init__(reduction, normalizer, tensors)
