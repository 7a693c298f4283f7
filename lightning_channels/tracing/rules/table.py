"""The table of rules: operator → what it does to labels."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_channels.errors import ConfigError
from lightning_channels.tracing.rewrites import REWRITES, Rewrite, operator_key

if TYPE_CHECKING:
    from lightning_channels.tracing.program import Op
    from lightning_channels.tracing.walk import Walk

__all__ = ["OWN_RULES", "RULES", "TAG_RULES", "Rule", "named", "register_rule", "rule", "rule_for", "tag_rule"]

Rule = Callable[["Walk", "Op"], None]
F = TypeVar("F", bound=Callable[..., None])

RULES: dict[str, Rule] = {}
"""Operator's key (see :func:`~lightning_channels.tracing.rewrites.operator_key`) → its rule."""

OWN_RULES: set[str] = set()
"""Keys of the rules that users registered."""

TAG_RULES: list[tuple[Callable[[Any], bool], Rule]] = []
"""Tried in order for operators without a rule of their own: a test of the overload, and the rule."""


def rule(*names: str) -> Callable[[F], F]:
    """Register a rule for operators by their keys."""

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


def register_rule(name: str, rewrite: Rewrite | None = None) -> Callable[[F], F]:
    """Decorator that registers a rule for an operator of your own; without one, what reaches it can't change.

    A rule says what becomes of the labels of its operator's operands. Most are one line, a call of one of the walk's
    methods: :meth:`Walk.passes` where the operator works on each index of some dims separately,
    :meth:`Walk.pointwise` where its operands meet element by element, :meth:`Walk.pin_inputs` where nothing that it
    reads may change. Anything else is said with :meth:`Walk.get` and :meth:`Walk.set` (a tuple of label maps for each
    tensor), and with ``walk.labels`` (``unite``, ``pin``, ``mark_inexact``).

    Args:
        name: ``"mylib::my_op"``; a name without namespace is one of PyTorch's own operators.
        rewrite: How to call the operator on narrowed operands, where an integer among its arguments counts or names
            channels: gets the replay, the operator, its arguments and its keyword arguments, and returns the results.

    Raises:
        ConfigError: If the name isn't the name of an operator, or what is decorated can't be called.

    Example:
        >>> from lightning_channels.tracing import register_rule
        >>> @register_rule("mylib::blur")
        ... def blur(walk, op):
        ...     walk.passes(op, 0, 1)  # a blur of images: batch and channels come out as they go in
    """
    given: object = name
    if not isinstance(given, str) or re.fullmatch(r"(\w+::)?\w+", given) is None:
        raise ConfigError(f'register_rule takes the name of an operator such as "mylib::my_op", got {name!r}')
    key = name.removeprefix("aten::")

    def decorate(function: F) -> F:
        if not callable(function):
            raise ConfigError(f"the rule for {name} must be a function of (walk, op), got {function!r}")
        RULES[key] = function
        OWN_RULES.add(key)
        if rewrite is not None:
            REWRITES[key] = rewrite
        return function

    return decorate


def rule_for(op: Op) -> Rule | None:
    """The rule of an operator, by name or else by tag."""
    own = RULES.get(operator_key(op.func))
    if own is not None:
        return own
    if not any(out is not None for out in op.outputs):
        return None
    return next((found for test, found in TAG_RULES if test(op.func)), None)


def named(op: Op, name: str, default: Any = None) -> Any:
    """An argument by its name in the operator's schema, wherever this overload has it."""
    if name in op.kwargs:
        return op.kwargs[name]
    for position, argument in enumerate(op.func._schema.arguments[: len(op.args)]):
        if argument.name == name:
            return op.args[position]
    return default
