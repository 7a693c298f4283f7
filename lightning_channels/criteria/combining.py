"""From the scores of a unit's tensors to those of its channels, and to scores that units can be compared by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["NORMALIZERS", "REDUCTIONS", "Normalizer", "Reduction", "check_option", "normalized"]

Reduction: TypeAlias = Literal["sum", "mean", "max", "prod", "first"]
Normalizer: TypeAlias = Literal["mean", "max", "sum", "standardization", "gaussian", "lamp"]


def _divided(scores: Tensor, divisor: Tensor) -> Tensor:
    """By what may be zero, where all scores are alike."""
    return scores / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def _lamp(scores: Tensor) -> Tensor:
    order = scores.argsort(stable=True)
    rising = scores[order]
    at_least = rising.flip(0).cumsum(0).flip(0)
    return torch.empty_like(scores).index_copy_(0, order, _divided(rising, at_least))


REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda rows: rows.sum(0),
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.amax(0),
    "prod": lambda rows: rows.prod(0),
    "first": lambda rows: rows[0],
}
"""Name → how scores of shape (tensors, channels) become one for each channel."""

NORMALIZERS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: _divided(scores, scores.mean()),
    "max": lambda scores: _divided(scores, scores.max()),
    "sum": lambda scores: _divided(scores, scores.sum()),
    "standardization": lambda scores: _divided(scores - scores.min(), scores.max() - scores.min()),
    "gaussian": lambda scores: _divided(scores - scores.mean(), scores.std()),
    "lamp": _lamp,
}
"""Name → how a unit's scores are made comparable with other units'."""


def normalized(scores: Tensor, normalizer: str | None) -> Tensor:
    """A unit's scores, comparable with those of other units; their order stays.

    Args:
        scores: Shape (num_channels,).
        normalizer: ``"mean"``, ``"max"`` or ``"sum"`` divides by the unit's mean, largest or total score,
            ``"standardization"`` maps the lowest to 0 and the highest to 1, ``"gaussian"`` makes mean 0 and standard
            deviation 1, ``"lamp"`` divides each by the sum of those that are no smaller (Lee et al., "Layer-adaptive
            Sparsity for the Magnitude-based Pruning", ICLR 2021), None leaves them. Nothing is divided by zero.

    Raises:
        ConfigError: If the name is unknown.
    """
    if normalizer is None:
        return scores
    return NORMALIZERS[check_option(normalizer, NORMALIZERS, "the normalizer")](scores)


def check_option(value: Any, allowed: Iterable[str], what: str) -> str:
    """Refuse a name that isn't among the allowed ones.

    Raises:
        ConfigError: If it isn't; the message names the nearest one.
    """
    names = list(allowed)
    if not isinstance(value, str) or value not in names:
        hint = did_you_mean(value, names) or "."
        raise ConfigError(f"{what} is {value!r}{hint} Allowed: {', '.join(names)}")
    return value
