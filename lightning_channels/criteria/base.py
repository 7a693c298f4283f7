"""What a criterion is: a callable from a unit to the scores of its channels."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_channels.criteria.combining import (
    NORMALIZERS,
    REDUCTIONS,
    Normalizer,
    Reduction,
    check_option,
    normalized,
)
from lightning_channels.criteria.tensors import KINDS, GroupTensor, Kind, group_tensors
from lightning_channels.errors import ConfigError
from lightning_channels.units import MutableChannelUnit

__all__ = ["Criterion", "CriterionFunction", "WeightCriterion", "scores_of"]

CriterionFunction: TypeAlias = Callable[[MutableChannelUnit], Tensor]


class Criterion(ABC):
    """Scores a unit's channels by the tensors that hold them.

    Channels that depend on each other go together, so that their importance is that of the group (Fang et al.,
    "DepGraph: Towards Any Structural Pruning", CVPR 2023): the scores that the unit's tensors give are reduced to one
    for each channel, and these made comparable with other units'. Any callable from a unit to scores will do where one
    is asked for.

    Args:
        reduction: Over the tensors: ``"sum"``, ``"mean"``, ``"max"``, ``"prod"`` or ``"first"`` (the weight that gives
            the channels, alone).
        normalizer: See :func:`normalized`; None for the scores as they are.
        tensors: Which tensors count: weights that give the channels (``"outputs"``) and that read them (``"inputs"``),
            scales of norms (``"norms"``), ``"biases"``.

    Raises:
        ConfigError: If an argument isn't allowed.
    """

    ready: bool = True
    """Whether it has what it needs; False for one that collects, until it has collected something."""

    def __init__(
        self,
        reduction: Reduction = "mean",
        normalizer: Normalizer | None = "mean",
        tensors: Sequence[Kind] = KINDS,
    ) -> None:
        who = f"{type(self).__name__}: "
        given: Any = tensors
        check_option(reduction, REDUCTIONS, f"{who}reduction")
        if normalizer is not None:
            check_option(normalizer, NORMALIZERS, f"{who}normalizer")
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise ConfigError(f"{who}tensors must be a list of {', '.join(KINDS)}, got {tensors!r}")
        for kind in tensors:
            check_option(kind, KINDS, f"{who}one of tensors")
        self.reduction = reduction
        self.normalizer = normalizer
        self.tensors = tuple(tensors)

    @abstractmethod
    def __call__(self, unit: MutableChannelUnit) -> Tensor:
        """The scores of a unit's channels.

        Args:
            unit: Of a prepared model.

        Returns:
            float64 on the CPU, shape (num_channels,); the larger, the more important. Channels that aren't active have
            the scores that their weights give them.

        Raises:
            ConfigError: If the unit has none of the tensors that count.
        """

    def combined(self, rows: Tensor) -> Tensor:
        """The scores from those of the unit's tensors.

        Args:
            rows: Shape (tensors, num_channels).
        """
        return normalized(REDUCTIONS[self.reduction](rows), self.normalizer)

    def tensors_of(self, unit: MutableChannelUnit) -> list[GroupTensor]:
        """The unit's tensors that count.

        Raises:
            ConfigError: If there are none.
        """
        found = group_tensors(unit, self.tensors)
        if not found:
            raise ConfigError(
                f"{type(self).__name__} can't score unit {unit.name!r}, which has no {' or '.join(self.tensors)}; take "
                "another criterion, let more tensors count, or leave this unit out"
            )
        return found

    def __repr__(self) -> str:
        held = vars(self)
        shown = [f"{name}={held[name]!r}" for name in inspect.signature(type(self)).parameters if name in held]
        return f"{type(self).__name__}({', '.join(shown)})"


class WeightCriterion(Criterion):
    """A criterion that looks at the weights alone: a subclass says by :meth:`score` what each tensor of a unit gives.

    Args:
        reduction: See :class:`Criterion`, as the others.
        normalizer: Of a unit's scores.
        tensors: Which tensors count.

    Example:
        >>> from lightning_channels.registry import CRITERIA
        >>> @CRITERIA.register("spread")
        ... class SpreadCriterion(WeightCriterion):
        ...     def score(self, tensor):
        ...         return tensor.rows().std(1, correction=0)
    """

    def __call__(self, unit: MutableChannelUnit) -> Tensor:
        """The scores of a unit's channels; see :class:`Criterion`."""
        rows = [self.score(tensor).to("cpu", torch.float64) for tensor in self.tensors_of(unit)]
        return self.combined(torch.stack(rows))

    @abstractmethod
    def score(self, tensor: GroupTensor) -> Tensor:
        """The scores that one tensor gives the channels, shape (num_channels,).

        Args:
            tensor: Its ``rows()`` are what belongs to each channel.
        """


def scores_of(criterion: CriterionFunction, unit: MutableChannelUnit) -> Tensor:
    """A criterion's scores of a unit, checked.

    Args:
        criterion: Whatever :func:`build_criterion` returned.
        unit: Of a prepared model.

    Returns:
        float64 on the CPU, shape (num_channels,).

    Raises:
        ConfigError: If it returns something else than a finite number for each channel.
    """
    with torch.no_grad():
        scores: Any = criterion(unit)
    if not isinstance(scores, Tensor) or scores.shape != (unit.num_channels,) or scores.is_complex():
        given = f"one of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ConfigError(
            f"the criterion {criterion!r} must return a tensor of one score for each of the {unit.num_channels} "
            f"channels of unit {unit.name!r}, got {given}"
        )
    found = scores.detach().to("cpu", torch.float64)
    if not bool(found.isfinite().all()):
        raise ConfigError(f"the criterion {criterion!r} gives unit {unit.name!r} scores that are no finite numbers")
    return found
