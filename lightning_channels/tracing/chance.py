"""Operators that draw random numbers, with chance taken out.

A narrow run draws fewer numbers than a full one, and so draws others: no comparison could hold. Where every draw is the
same number, a narrow run draws what is left of the full one. Dropout keeps everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["certain", "without_chance"]

Run = Callable[..., Any]

_CENTRE = 0.5
"""Not 0 or 1, which multiply and add too little; what is drawn from a normal distribution is half a deviation up."""

_STANDARD = {"rand", "randn", "rand_like", "randn_like"}
_KEPT = {"native_dropout", "_fused_dropout"}


_SWITCHES = ("dropout_p", "train", "training")
"""Arguments that say whether an operator draws at all."""


def certain(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run | None:
    """What to call in the place of an operator that draws random numbers; ``None`` if this call draws none.

    What draws numbers of channels (``randperm``, ``multinomial``, ``randint``) draws them as it always does.
    """
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return None
    position, name = _switch(func)
    if name and not (args[position] if len(args) > position else kwargs.get(name, name == "train")):
        return None
    return _certain(func)


@cache
def _switch(func: Any) -> tuple[int, str]:
    """Position and name of the argument that says whether an operator draws; an empty name if it always does."""
    names = [argument.name for argument in func._schema.arguments]
    return next(((names.index(name), name) for name in _SWITCHES if name in names), (-1, ""))


@cache
def _certain(func: Any) -> Run | None:
    name = func.overloadpacket.__name__
    position, switch = _switch(func)
    if switch == "dropout_p":
        return _with(func, position, switch, 0.0)
    if switch == "training":
        return _with(func, position, switch, False)
    if name in _KEPT:
        return lambda x, *args, **kwargs: (x.clone(), torch.ones_like(x, dtype=torch.bool))
    if name in _STANDARD:
        return lambda *args, **kwargs: func(*args, **kwargs).fill_(_CENTRE)
    if name == "bernoulli_":
        return lambda x, *args, **kwargs: x.fill_(1)
    if name == "bernoulli":
        return lambda x, *args, **kwargs: torch.ones_like(x)
    if name == "uniform_":
        return lambda x, low=0.0, high=1.0, **kwargs: x.fill_(low + _CENTRE * (high - low))
    if name == "normal_":
        return lambda x, mean=0.0, std=1.0, **kwargs: x.fill_(mean + _CENTRE * std)
    if name == "exponential_":
        return lambda x, rate=1.0, **kwargs: x.fill_(_CENTRE / kwargs.get("lambd", rate))
    return None


def _with(func: Any, position: int, name: str, value: Any) -> Run:
    """An operator with one of its arguments set."""

    def run(*args: Any, **kwargs: Any) -> Any:
        if len(args) > position:
            return func(*args[:position], value, *args[position + 1 :], **kwargs)
        return func(*args, **{**kwargs, name: value})

    return run


class _WithoutChance(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        return (certain(func, args, kwargs) or func)(*args, **kwargs)


@contextmanager
def without_chance(needed: bool = True) -> Iterator[None]:
    """Take chance out of the operators that run inside the block.

    Args:
        needed: Nothing is done, and no operator is slowed down, where it is ``False``.
    """
    if not needed:
        yield
        return
    with _WithoutChance():
        yield
