"""Criteria from what users write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from lightning_channels.criteria.base import Criterion, CriterionFunction
from lightning_channels.errors import ConfigError
from lightning_channels.registry import CRITERIA

__all__ = ["CriterionLike", "build_criterion"]

CriterionLike: TypeAlias = "str | Mapping[str, Any] | Criterion | type[Criterion] | CriterionFunction"


def build_criterion(criterion: CriterionLike) -> CriterionFunction:
    """Make a criterion of what a user wrote.

    Args:
        criterion: A registered name, a dict with ``type`` and arguments, a criterion, its class, or a function from a
            unit to the scores of its channels.

    Returns:
        A callable from a unit to its scores.

    Raises:
        ConfigError: If the name is unknown, or an argument doesn't fit.

    Example:
        >>> build_criterion({"type": "l1", "reduction": "sum"}).reduction
        'sum'
    """
    if isinstance(criterion, (str, Mapping)):
        built: CriterionFunction = CRITERIA.build(CRITERIA.config_of(criterion, "criterion"))
        return built
    made = criterion() if isinstance(criterion, type) else criterion
    if callable(made):
        return made
    raise ConfigError(
        f"a criterion must be a name, a dict with 'type', or a callable from a unit to the scores of its channels, got "
        f"{type(criterion).__name__}. Known names: {', '.join(CRITERIA.names())}"
    )
