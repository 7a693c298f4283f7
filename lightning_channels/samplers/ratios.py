"""Widths as parts of a unit's channels, for all units or by patterns of their names."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from lightning_channels._patterns import first_matches
from lightning_channels.errors import ConfigError
from lightning_channels.samplers.protocol import Choices

__all__ = ["RatioDraws", "RatiosLike", "choices_at"]

RatiosLike: TypeAlias = "Sequence[float] | Mapping[str, Sequence[float]] | None"


class RatioDraws:
    """Draws widths.

    Args:
        who: The sampler, for messages.
        ratios: Parts of a unit's channels to draw from, in (0, 1]; or, by pattern, those of the units with such names:
            ``{"layer1.*": [1.0], "*": [0.25, 0.5, 1.0]}``. Of several patterns that match, the first counts; units that
            none matches stay at their widest.
        shared: Draw one ratio for all units at once, or one for each pattern.
        min_ratio: Draw any part from this one to 1, in place of ``ratios``.

    Raises:
        ConfigError: If a ratio is outside (0, 1], there is none, or ``shared`` comes without any.
    """

    def __init__(self, who: str, ratios: RatiosLike, shared: bool, min_ratio: float | None = None) -> None:
        if not isinstance(shared, bool):
            raise ConfigError(f"the {who} sampler's shared must be true or false, got {shared!r}")
        if ratios is not None and min_ratio is not None:
            raise ConfigError(f"the {who} sampler takes ratios or min_ratio, not both")
        if shared and ratios is None and min_ratio is None:
            raise ConfigError(
                f"the {who} sampler's shared=True needs ratios, for instance [0.25, 0.5, 0.75, 1.0], or a min_ratio"
            )
        if min_ratio is not None:
            _check(who, "min_ratio", min_ratio)
        self._who = who
        self._by_pattern = isinstance(ratios, Mapping)
        given = ratios if isinstance(ratios, Mapping) else {"*": ratios}
        if not given:
            raise ConfigError(f"the {who} sampler's ratios by pattern must name at least one pattern")
        self._ratios = {} if ratios is None else {str(key): _checked(who, values) for key, values in given.items()}
        self._shared = shared
        self._least = min_ratio

    @property
    def is_free(self) -> bool:
        """Whether each unit draws from all that it allows."""
        return not self._ratios and self._least is None

    def draw(self, mutator: Any, rng: random.Random) -> Choices:
        """A choice for each unit."""
        if self.is_free:
            return dict(mutator.sample_choices("random", rng=rng))
        shared = {pattern: self._one(pattern, rng) for pattern in self._patterns} if self._shared else {}
        return {
            unit.name: _choice_at(unit, 1.0 if pattern is None else shared.get(pattern) or self._one(pattern, rng))
            for unit, pattern in self._matched(mutator)
        }

    def narrowest(self, mutator: Any) -> Choices:
        """The smallest choices that can be drawn."""
        if self.is_free:
            return dict(mutator.sample_choices("min"))
        least = {pattern: self._least or min(self._ratios[pattern]) for pattern in self._patterns}
        return {
            unit.name: _choice_at(unit, 1.0 if pattern is None else least[pattern])
            for unit, pattern in self._matched(mutator)
        }

    def widest(self, mutator: Any) -> Choices:
        """The largest choices that can be drawn."""
        if self.is_free or self._least is not None:
            return dict(mutator.sample_choices("max"))
        most = {pattern: max(ratios) for pattern, ratios in self._ratios.items()}
        return {
            unit.name: _choice_at(unit, 1.0 if pattern is None else most[pattern])
            for unit, pattern in self._matched(mutator)
        }

    @property
    def _patterns(self) -> list[str]:
        return list(self._ratios) or ["*"]

    def _one(self, pattern: str, rng: random.Random) -> float:
        return rng.uniform(self._least, 1.0) if self._least is not None else rng.choice(self._ratios[pattern])

    def _matched(self, mutator: Any) -> Iterator[tuple[Any, str | None]]:
        """Each unit with the pattern that it draws by.

        Raises:
            ConfigError: If a pattern matches no unit.
        """
        units = mutator.mutable_units
        if not self._by_pattern:
            yield from ((unit, "*") for unit in units)
            return
        names = [unit.name for unit in units]
        yield from zip(units, first_matches(self._patterns, names, f"the {self._who} sampler's"), strict=True)


def _checked(who: str, ratios: Any) -> list[float]:
    if isinstance(ratios, str) or not isinstance(ratios, Sequence) or not ratios:
        raise ConfigError(f"the {who} sampler's ratios must be a list of numbers in (0, 1], got {ratios!r}")
    for ratio in ratios:
        _check(who, "ratios", ratio)
    return [float(ratio) for ratio in ratios]


def _check(who: str, name: str, ratio: Any) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio <= 1:
        raise ConfigError(f"the {who} sampler's {name} must lie in (0, 1], got {ratio!r}")


def _choice_at(unit: Any, ratio: float) -> int | float:
    """A unit's choice at a part of its channels, in the unit's own terms."""
    if getattr(unit, "choice_mode", "number") == "ratio":
        return ratio
    return max(1, round(ratio * int(unit.num_channels)))


def choices_at(mutator: Any, ratio: float) -> Choices:
    """All units at one part of their channels."""
    return {unit.name: _choice_at(unit, ratio) for unit in mutator.mutable_units}
