"""How narrow each unit may become: floors, patterns that are left out, given widths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_channels._patterns import first_matches
from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import ChoiceError, ConfigError

__all__ = ["Bounds", "Width", "WidthsLike", "allowed_numbers", "bounds_of", "check_ignore", "check_widths"]

Width: TypeAlias = "int | float"
WidthsLike: TypeAlias = "Width | Mapping[str, Width]"


@dataclass(frozen=True)
class Bounds:
    """What one unit may be in a whole pruning.

    Args:
        unit: The unit.
        allowed: The numbers of channels that its type, the divisors and its groups allow; int64, ascending.
        least: The fewest channels that may be left.
        given: The number that it is to end with, where a pattern says so.
        ignored: Whether it stays as it is.
    """

    unit: Any
    allowed: Tensor
    least: int
    given: int | None = None
    ignored: bool = False

    @property
    def moves(self) -> bool:
        """Whether its width is a matter of scores."""
        return not self.ignored and self.given is None

    def lowest(self, now: int) -> int:
        """The narrowest that it will ever be, where it has ``now`` channels."""
        return now if self.ignored else min(now, self.least if self.given is None else self.given)

    def at(self, begin: int, share: float) -> int:
        """The allowed number at a share of the way from ``begin`` channels to the given ones."""
        assert self.given is not None
        given = min(begin, self.given)
        return given if share >= 1 else self.near(begin + (given - begin) * share, given, begin)

    def near(self, number: float, least: int, most: int) -> int:
        """The allowed number nearest to one, the larger of two; ``most`` is always allowed."""
        return min(self.up_to(least, most), key=lambda n: (abs(n - number), -n))

    def up_to(self, least: int, most: int) -> list[int]:
        """The allowed numbers between two of them, ``most`` included, whatever it is."""
        inside = self.allowed[(self.allowed >= least) & (self.allowed < most)]
        return [*inside.tolist(), most]


def check_widths(value: Any, what: str) -> dict[str, Width]:
    """Widths by pattern.

    Args:
        value: A number of channels (a whole number), a part of them (in (0, 1]), or a dict of pattern → such.
        what: Whose they are, for messages.

    Raises:
        ConfigError: If it is something else.
    """
    given = value if isinstance(value, Mapping) else {"*": value}
    if not given:
        raise ConfigError(f"{what} by pattern must name at least one pattern")
    for pattern, width in given.items():
        if not (is_int(width) and width >= 1) and not (is_number(width) and 0 < width <= 1):
            of = f" for {pattern!r}" if isinstance(value, Mapping) else ""
            raise ConfigError(
                f"{what} must be a number of channels (1, 2, …) or a part of them (above 0, up to 1.0), "
                f"got {width!r}{of}"
            )
    return {str(pattern): width for pattern, width in given.items()}


def check_ignore(value: Any) -> list[str]:
    """Patterns of units that stay as they are.

    Raises:
        ConfigError: If they are no list of strings.
    """
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(isinstance(pattern, str) for pattern in given):
        raise ConfigError(f"ignore must be a list of patterns of units' names, got {value!r}")
    return list(given)


def bounds_of(
    units: Sequence[Any],
    floor: Mapping[str, Width],
    ignore: Sequence[str],
    given: Mapping[str, Width],
    divisor: int = 1,
) -> list[Bounds]:
    """The bounds of units.

    Args:
        units: The mutable ones.
        floor: Pattern → the fewest channels that may be left; where none matches, the fewest that are allowed.
        ignore: Patterns of units that stay as they are.
        given: Pattern → the width to end with.
        divisor: Of what the sizes of the units' layers are multiples, as far as they get smaller.

    Raises:
        ConfigError: If a pattern matches no unit.
    """
    names = [unit.name for unit in units]
    by_floor = first_matches(floor, names, "the floor's")
    by_ignore = first_matches(ignore, names, "the ignored")
    by_given = first_matches(given, names, "the scope's")
    found: list[Bounds] = []
    for unit, low, ignored, width in zip(units, by_floor, by_ignore, by_given, strict=True):
        allowed = allowed_numbers(unit, divisor)
        least = _at_least(allowed, 1 if low is None else floor[low], unit.num_channels)
        number = None if width is None else _nearest(allowed, _number(given[width], unit.num_channels))
        found.append(Bounds(unit, allowed, least, number, ignored is not None))
    return found


def _number(width: Width, num_channels: int) -> float:
    return width if is_int(width) else width * num_channels


def allowed_numbers(unit: Any, divisor: int = 1) -> Tensor:
    """All numbers of channels that a unit takes as they are, the most of them and what makes multiples of a divisor.

    Args:
        unit: Mutable.
        divisor: Of the channels of each layer; a head counts as all of its channels.

    Returns:
        Int64, ascending.
    """
    numbers = range(unit.groups, unit.num_channels + 1, unit.groups)
    allowed = torch.tensor([number for number in numbers if _allows(unit, number)], dtype=torch.int64)
    return allowed[(allowed % _step(unit, divisor) == 0) | (allowed == allowed[-1])]


def _step(unit: Any, divisor: int) -> int:
    """The channels that go together: a channel may be several of a layer's, as a head is, or be one in each group."""
    steps = (
        divisor // math.gcd(divisor, (channel.end - channel.start) // unit.num_channels) for channel in unit.channels
    )
    return math.lcm(*steps)


def _allows(unit: Any, number: int) -> bool:
    try:
        return bool(unit.check_choice(unit.choice_of(number)) == number)
    except ChoiceError:
        return False


def _at_least(allowed: Tensor, width: Width, num_channels: int) -> int:
    enough = allowed[allowed >= _number(width, num_channels) - 1e-6]
    return int(enough[0] if enough.numel() else allowed[-1])


def _nearest(allowed: Tensor, number: float) -> int:
    numbers: list[int] = allowed.tolist()
    return min(numbers, key=lambda n: (abs(n - number), -n))
