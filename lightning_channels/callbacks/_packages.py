"""Lightning comes as two packages, ``lightning`` and ``pytorch_lightning``: the same code, but classes of their own.

The callback works with either; what asks for a class of Lightning's asks here, by name.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden

__all__ = ["is_lightnings", "overrides", "package_of"]

_PACKAGES = ("lightning", "pytorch_lightning", "lightning_fabric")


def is_lightnings(value: Any, name: str) -> bool:
    """Whether ``value`` is an instance of the class of that name, of either package."""
    return any(_is(cls, name) for cls in type(value).__mro__)


def overrides(module: LightningModule, name: str) -> bool:
    """Whether a LightningModule of either package overrides a method that its base has."""
    base = _base(module)
    return hasattr(base, name) and is_overridden(name, module, parent=base)


def package_of(module: LightningModule) -> str:
    """The package whose Trainer takes a LightningModule: ``lightning.pytorch`` or ``pytorch_lightning``."""
    return "pytorch_lightning" if _base(module).__module__.startswith("pytorch_lightning") else "lightning.pytorch"


def _base(module: LightningModule) -> type:
    return next(cls for cls in type(module).__mro__ if _is(cls, "LightningModule"))


def _is(cls: type, name: str) -> bool:
    return cls.__name__ == name and cls.__module__.partition(".")[0] in _PACKAGES
