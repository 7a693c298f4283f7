"""What models keep from one pass in eval mode to the next, such as position biases: at another width it is stale."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lightning_channels._modules import modules_of

__all__ = ["forget", "keepers"]


def keepers(model: nn.Module) -> list[nn.Module]:
    """The modules that may keep something: those with a ``train`` of their own, in which they let it go."""
    return [module for module in modules_of(model) if type(module).train is not nn.Module.train]


def forget(modules: Iterable[nn.Module]) -> None:
    """Let those in eval mode go through train mode; all modes are as before then."""
    for module in modules:
        if not module.training:
            inside = modules_of(module)
            modes = [inner.training for inner in inside]
            module.train()
            module.eval()
            for inner, mode in zip(inside, modes, strict=True):
                inner.training = mode
