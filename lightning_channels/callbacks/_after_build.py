"""Run something right after a LightningModule's last builder.

A net may be built in ``__init__``, in ``setup`` or in ``configure_model``; a callback's own ``setup`` runs before the
latter two, and the checkpoint is loaded right after them. So the last of these methods is wrapped on the instance, for
one call.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from lightning.pytorch import LightningModule

from lightning_channels.callbacks._packages import overrides

__all__ = ["after_build", "forget"]

# last to run first; Lightning calls ``setup`` always, the others only if they are overridden
_BUILDERS = ("configure_model", "configure_sharded_model", "setup")


class _AfterBuild:
    """Stands in for a builder on the instance until it is called once; several callbacks share one."""

    def __init__(self, module: LightningModule, name: str) -> None:
        self.module = module
        self.name = name
        self.previous = module.__dict__.get(name)
        self.__wrapped__ = getattr(module, name)  # what Lightning's is_overridden looks at
        self.actions: dict[int, Callable[[], None]] = {}
        module.__dict__[name] = self

    def take_off(self) -> None:
        if self.module.__dict__.get(self.name) is self:
            del self.module.__dict__[self.name]
            if self.previous is not None:
                self.module.__dict__[self.name] = self.previous

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copy of the module (an averaged one, say) is not the callback's: it gets the plain method."""
        if self.previous is not None:
            return deepcopy(self.previous, memo)
        return getattr(type(self.module), self.name).__get__(memo.get(id(self.module), self.module))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.take_off()
        result = self.__wrapped__(*args, **kwargs)
        # Lightning's other builders run with the strategy's device as the default one, which no forward ever sees
        with nullcontext() if self.name == "setup" else torch.device("cpu"):
            for action in self.actions.values():
                action()
        return result


def after_build(module: LightningModule, owner: object, action: Callable[[], None]) -> None:
    """Call ``action`` once, after the module's last builder ran.

    Args:
        module: The module that is about to be built.
        owner: Whose action it is: an owner has one, a second one replaces it.
        action: Called without arguments.
    """
    name = next(name for name in _BUILDERS if name == "setup" or overrides(module, name))
    wrapper = module.__dict__.get(name)
    if not isinstance(wrapper, _AfterBuild):
        wrapper = _AfterBuild(module, name)
    wrapper.actions[id(owner)] = action


def forget(module: LightningModule | None, owner: object) -> None:
    """Drop the owner's action, and the wrapper with the last one; nothing happens where there is none."""
    for name in _BUILDERS if module is not None else ():
        wrapper = module.__dict__.get(name)
        if isinstance(wrapper, _AfterBuild):
            wrapper.actions.pop(id(owner), None)
            if not wrapper.actions:
                wrapper.take_off()
