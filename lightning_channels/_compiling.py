"""What ``torch.compile`` reads in the place of a getter.

A compiled forward is compiled again whenever an integer of a module changes, and a width is one. A getter that has a
second form for the compiler reads the width from a ``DynamicInt`` there, which is a symbol in the compiled code: one
compilation serves all widths.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.fx.experimental.sym_node import DynamicInt

__all__ = ["CompilableGetter", "compiled_as", "width_symbol"]


class CompilableGetter(property):
    """A property whose getter the compiler sees in another form.

    Python calls what the property was made with, and never looks at ``fget``; the compiler takes ``fget``, and traces
    that. So the form for eager code is as fast as it would be alone.

    Args:
        get: The getter.
        put: The setter.
        traced: The getter that is compiled.
    """

    def __init__(
        self, get: Callable[[Any], Any], put: Callable[[Any, Any], None] | None, traced: Callable[[Any], Any]
    ) -> None:
        super().__init__(get, put)
        self._traced = traced

    @property
    def fget(self) -> Callable[[Any], Any]:  # type: ignore[override]
        """What the compiler inlines."""
        return self._traced


def compiled_as(cls: type, name: str, traced: Callable[[Any], Any]) -> None:
    """Let the compiler see a property of a class as ``traced``."""
    own = cls.__dict__[name]
    setattr(cls, name, CompilableGetter(own.fget, own.fset, traced))


width_symbol: Callable[[int], int] = partial(int.__new__, DynamicInt)
"""An integer equal to the given one that is a symbol in compiled code.

Each is an object of its own: the compiler takes two for the same symbol only if they are the same object. The class's
own ``__new__`` checks the type, and takes four times as long.
"""
