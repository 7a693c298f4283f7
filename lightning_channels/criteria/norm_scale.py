"""The criterion of norms' scales, and the penalty that makes them small."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_channels._modules import is_sharded
from lightning_channels._plain import is_number
from lightning_channels.criteria.base import WeightCriterion
from lightning_channels.criteria.collecting import hook_on
from lightning_channels.criteria.combining import Normalizer, Reduction
from lightning_channels.criteria.tensors import GroupTensor
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.registry import CRITERIA
from lightning_channels.units import MutableChannelUnit

__all__ = ["NormScaleCriterion"]


@CRITERIA.register("bn_scale")
class NormScaleCriterion(WeightCriterion):
    """The absolute scales by which a channel's norms multiply it.

    Network Slimming: Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017, which
    compares the scales of all batch norms as they are. Other norms that have scales count as well.

    Args:
        penalty: Strength of the paper's penalty, the sum of the absolute scales: while it trains, ``penalty *
            sign(scale)`` is added to the gradients of the units' scales, once for each optimizer step (1e-4 in the
            paper). 0 for none.
        reduction: Over a unit's norms; see :class:`Criterion`.
        normalizer: See :func:`normalized`. The paper compares the scales as they are (None), after a training with its
            penalty.

    Attributes:
        loss_scale: What the loss is multiplied by (``GradScaler.get_scale()``), so that the penalty can be as well.

    Raises:
        ConfigError: If an argument isn't allowed.
    """

    def __init__(
        self, penalty: float = 0.0, reduction: Reduction = "mean", normalizer: Normalizer | None = "mean"
    ) -> None:
        super().__init__(reduction, normalizer, ("norms",))
        if not is_number(penalty) or penalty < 0:
            raise ConfigError(f"NormScaleCriterion: penalty must be a number of at least 0, got {penalty!r}")
        self.penalty = penalty
        self.loss_scale = 1.0
        self._handles: list[RemovableHandle] = []

    def score(self, tensor: GroupTensor) -> Tensor:
        """The absolute scale, or their sum where a channel is there several times."""
        return tensor.sums(tensor.values().abs())

    def start(self, model: nn.Module, units: Sequence[MutableChannelUnit]) -> None:
        """Check that every unit has a norm, and penalise their scales from now on.

        Raises:
            ConfigError: If a unit has none.
            PrepareError: If a scale is sharded, and there is a penalty.
        """
        self.stop()
        scales = {id(tensor.parameter): tensor for unit in units for tensor in self.tensors_of(unit)}
        if self.penalty == 0:
            return
        for tensor in scales.values():
            if is_sharded(tensor.parameter):
                raise PrepareError(f"the penalty needs whole parameters, and {tensor.name} is sharded; set penalty=0")
        for tensor in scales.values():
            if tensor.parameter.requires_grad:
                self._handles.append(hook_on(tensor.parameter, partial(self._penalised, tensor.parameter)))

    def stop(self) -> None:
        """Penalise no more."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _penalised(self, scale: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with that of the penalty, unless that is in what was accumulated already."""
        with torch.no_grad():
            added = torch.sign(scale.detach()).to(gradient.dtype) * (self.penalty * self.loss_scale)
            if scale.grad is not None:
                added = torch.where(scale.grad.any(), torch.zeros_like(added), added)
        return gradient + added

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_handles": []}
