"""The table of rules: operator name → what it does to labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from lightning_channels.tracing.program import Op
    from lightning_channels.tracing.walk import Walk

__all__ = ["RULES", "TAG_RULES", "Rule", "rule", "tag_rule"]

Rule = Callable[["Walk", "Op"], None]
F = TypeVar("F", bound=Callable[..., None])

RULES: dict[str, Rule] = {}
TAG_RULES: list[tuple[Callable[[Any], bool], Rule]] = []
"""Tried in order for operators without a rule of their own: a test of the overload, and the rule."""


def rule(*names: str) -> Callable[[F], F]:
    """Register a rule for operators by name (without namespace and overload)."""

    def decorate(function: F) -> F:
        for name in names:
            RULES[name] = function
        return function

    return decorate


def tag_rule(test: Callable[[Any], bool]) -> Callable[[F], F]:
    """Register a rule for every operator that passes ``test``."""

    def decorate(function: F) -> F:
        TAG_RULES.append((test, function))
        return function

    return decorate
