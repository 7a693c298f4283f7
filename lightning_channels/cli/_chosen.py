"""The widths that a command line names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices, choices_at, read_choices

__all__ = ["Chosen", "Subnet"]

_NAMED = ("max", "min")


class Subnet(NamedTuple):
    """Widths, what they are called, and what a search found them to be worth."""

    name: str
    choices: Choices
    metrics: Mapping[str, float] = MappingProxyType({})


class Chosen:
    """What ``--choices``, ``--width`` and ``--search`` ask for; files are read when it is made.

    Args:
        arguments: Of the command line.

    Raises:
        ConfigError: If one can't be read, or is out of range.
    """

    def __init__(self, arguments: Namespace) -> None:
        self._files = [(path, read_choices(path)) for path in _listed(arguments.choices)]
        self._widths = [_checked(width) for width in _listed(arguments.width)]

    def all(self, mutator: ChannelMutator) -> list[Subnet]:
        """Each of them, in the order of the options; those that are active where there are none.

        Raises:
            ChoiceError: If they don't fit the model.
        """
        current: Choices = {**mutator.current_choices, **mutator.kept_channels()}
        found = [subnet._replace(choices={**current, **subnet.choices}) for subnet in self._found(mutator)]
        for subnet in found:
            mutator.check_choices(subnet.choices)
        return found or [Subnet("current", current)]

    def one(self, mutator: ChannelMutator) -> Subnet:
        """The only one."""
        return self.all(mutator)[0]

    def _found(self, mutator: ChannelMutator) -> Iterator[Subnet]:
        for path, choices in self._files:
            yield Subnet(path, choices)
        for width in self._widths:
            whole = isinstance(width, str)
            yield Subnet(str(width), mutator.sample_choices(str(width)) if whole else choices_at(mutator, float(width)))


def _listed(given: str | list[str] | None) -> list[str]:
    return given if isinstance(given, list) else [] if given is None else [given]


def _checked(width: str) -> str | float:
    if width in _NAMED:
        return width
    try:
        value = float(width)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        hint = did_you_mean(width, _NAMED)
        raise ConfigError(f"--width must be max, min or a part of the channels, above 0 and up to 1, got {width}{hint}")
    return value
