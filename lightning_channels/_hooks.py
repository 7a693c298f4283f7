"""Forward hooks of this package's own: a copy of the model has none that does anything, an exported one none at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["OwnHook", "drop_own_hooks"]


class OwnHook:
    """A forward pre-hook ``(module, args, kwargs)``. Copies and pickles of it are of this base, which does nothing."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Leave the arguments as they are."""
        return None

    def __reduce__(self) -> tuple[type[OwnHook], tuple[()]]:
        return OwnHook, ()


def drop_own_hooks(modules: Iterable[nn.Module]) -> None:
    """Take these hooks off."""
    for module in modules:
        for key in [key for key, hook in module._forward_pre_hooks.items() if isinstance(hook, OwnHook)]:
            del module._forward_pre_hooks[key]
            module._forward_pre_hooks_with_kwargs.pop(key, None)
