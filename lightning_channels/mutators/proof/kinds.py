"""Units that play the same part in modules of one class: what fails in one block of a network fails in each."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from lightning_channels._modules import named_modules_of
from lightning_channels.dynamic_ops.factory import plain_class
from lightning_channels.units import MutableChannelUnit

__all__ = ["Kinds"]

Kind = tuple[type, tuple[str, ...]]


class Kinds:
    """What kind each unit is of: the class of the module that it is inside of, and where in it.

    Args:
        model: The prepared model.
        units: Its units.
    """

    def __init__(self, model: nn.Module, units: Iterable[MutableChannelUnit]) -> None:
        classes = {name: plain_class(module) for name, module in named_modules_of(model)}
        self._kinds = {id(unit): _kind(unit, classes) for unit in units}

    def of(self, units: Iterable[MutableChannelUnit]) -> set[Kind]:
        """The kinds of units."""
        return {self._kinds[id(unit)] for unit in units}

    def like(self, unit: MutableChannelUnit, kinds: set[Kind]) -> bool:
        """Whether a unit is of one of the kinds."""
        return self._kinds[id(unit)] in kinds

    def alone(self, unit: MutableChannelUnit) -> bool:
        """Whether there is no other of its kind."""
        return list(self._kinds.values()).count(self._kinds[id(unit)]) == 1


def _kind(unit: MutableChannelUnit, classes: dict[str, type]) -> Kind:
    names = [channel.name.split(".") for channel in unit.channels]
    home = names[0]
    for name in names[1:]:
        shared = next(
            (k for k, (a, b) in enumerate(zip(home, name, strict=False)) if a != b), min(len(home), len(name))
        )
        home = home[:shared]
    inside = {
        f"{'.'.join(name[len(home) :])}:{c.is_output_channel}" for name, c in zip(names, unit.channels, strict=True)
    }
    return classes[".".join(home)], tuple(sorted(inside))
