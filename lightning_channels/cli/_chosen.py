"""The widths that a command line names."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutators import ChannelMutator
from lightning_channels.samplers import Choices, choices_at, read_choices
from lightning_channels.search import SearchResult

__all__ = ["Chosen", "Subnet"]

_NAMED = ("max", "min")


class Subnet(NamedTuple):
    """Widths, what they are called, and what a search found them to be worth."""

    name: str
    choices: Choices
    metrics: Mapping[str, float] = MappingProxyType({})


class Chosen:
    """What ``--choices``, ``--width`` and ``--search`` ask for; files are read when it is made.

    Attributes:
        search: The search whose candidates are among them.

    Args:
        arguments: Of the command line.

    Raises:
        ConfigError: If one can't be read, or is out of range.
    """

    def __init__(self, arguments: Namespace) -> None:
        self._files = [(path, read_choices(path)) for path in _listed(arguments.choices)]
        self._widths = [_checked(width) for width in _listed(arguments.width)]
        self.search = None if arguments.search is None else SearchResult.load(arguments.search)
        self._pick = arguments.pick
        if self.search is None and self._pick is not None:
            raise ConfigError("--pick says which candidate of a search, and there is no --search")

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
        """The only one.

        Raises:
            ChoiceError: If it doesn't fit the model.
            ConfigError: If there are several.
        """
        found = self.all(mutator)
        if len(found) > 1:
            raise ConfigError(f"one subnet is needed, and --pick {self._pick} are {len(found)}; give the index of one")
        return found[0]

    def _found(self, mutator: ChannelMutator) -> Iterator[Subnet]:
        for path, choices in self._files:
            yield Subnet(path, choices)
        for width in self._widths:
            whole = isinstance(width, str)
            yield Subnet(str(width), mutator.sample_choices(str(width)) if whole else choices_at(mutator, float(width)))
        if self.search is not None:
            self.search.check(mutator)
            for at in _picked(self.search, self._pick):
                candidate = self.search.candidates[at]
                yield Subnet(f"candidate {at}", candidate.choices, candidate.metrics)


def _picked(search: SearchResult, pick: str | None) -> Sequence[int]:
    """The indices of the candidates that ``--pick`` says."""
    named = {None: [search.best_index], "best": [search.best_index], "front": search.front_indices}
    if pick in named:
        return named[pick]
    if pick is not None and pick.isdecimal() and int(pick) < len(search.candidates):
        return [int(pick)]
    last = len(search.candidates) - 1
    hint = did_you_mean(pick, ("best", "front"))
    raise ConfigError(f"--pick must be best, front or the index of a candidate, 0 to {last}, got {pick}{hint}")


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
