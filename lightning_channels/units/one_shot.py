"""A unit that chooses among given widths."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.registry import UNITS
from lightning_channels.units.base import MutableChannelUnit
from lightning_channels.units.sequential import SequentialMutableChannelUnit

if TYPE_CHECKING:
    from lightning_channels.tracing import Group
    from lightning_channels.units.predefined import PredefinedGroup

__all__ = ["OneShotMutableChannelUnit"]


@UNITS.register(aliases=("one_shot",))
class OneShotMutableChannelUnit(SequentialMutableChannelUnit):
    """Keeps the first channels, as many as one of the candidates says.

    Args:
        num_channels: Number of channels.
        candidate_choices: Numbers or ratios, as ``choice_mode`` says; rounded, sorted, equal ones merged. An empty list
            means the full width alone.
        choice_mode: ``"ratio"`` or ``"number"``.
        divisor: Candidates are rounded to a multiple of it.
        min_value: Fewest channels.
        min_ratio: Rounding loses at most ``1 - min_ratio`` of the channels.

    Raises:
        ConfigError: If an argument is not allowed.

    Example:
        >>> unit = OneShotMutableChannelUnit(48, [0.3, 0.5, 0.7], divisor=8)
        >>> unit.candidate_choices
        [0.3333333333333333, 0.5, 0.6666666666666666]
        >>> unit.current_choice
        0.6666666666666666
    """

    def __init__(
        self,
        num_channels: int,
        candidate_choices: Sequence[int | float] = (0.5, 1.0),
        choice_mode: str = "ratio",
        divisor: int | str = 1,
        min_value: int = 1,
        min_ratio: float = 0.9,
    ) -> None:
        super().__init__(num_channels, choice_mode, divisor, min_value, min_ratio)
        if isinstance(candidate_choices, (str, bytes)) or not isinstance(candidate_choices, Sequence):
            raise ConfigError(f"candidate_choices must be a list of numbers, got {candidate_choices!r}")
        self._given = list(candidate_choices)
        self._numbers: list[int] = []
        self._settle()

    @classmethod
    def init_from_group(cls, group: Group | PredefinedGroup, unit_args: Mapping[str, Any]) -> Self:
        """A unit for one group. One that can't change has its full width alone: the candidates are the others'.

        Raises:
            ConfigError: If ``unit_args`` holds an argument that the type doesn't take, or another ``num_channels``.
        """
        if not MutableChannelUnit.init_from_group(group, {}).is_mutable:
            unit_args = {**unit_args, "candidate_choices": []}
        return super().init_from_group(group, unit_args)

    @classmethod
    def _arguments_for(cls, plain: MutableChannelUnit, arguments: dict[str, Any]) -> dict[str, Any]:
        return arguments if plain.can_change else {**arguments, "candidate_choices": []}

    def _settle(self) -> None:
        """Round the candidates; groups become known only after construction."""
        self._numbers = self._rounded() or [self.num_channels]
        self.keep_first(self._numbers[-1] if self.can_change else self.num_channels)

    def _rounded(self) -> list[int]:
        """The candidates as numbers of channels, ascending, equal ones merged."""
        return sorted({super(OneShotMutableChannelUnit, self).number_of(choice) for choice in self._given})

    @property
    def candidate_choices(self) -> list[int | float]:
        """The rounded candidates, ascending."""
        return [self.choice_of(number) for number in self._numbers]

    def number_of(self, choice: int | float) -> int:
        """The candidate that a choice stands for.

        Raises:
            ChoiceError: If the choice, rounded, is no candidate.
        """
        number = super().number_of(choice)
        if number in self._numbers or (number == self.num_channels and not self.can_change):
            return number
        hint = "" if self._given else "; it was given none: templates hold them with with_unit_init_args=True"
        raise ChoiceError(
            f"the choice {choice!r} of unit {self.name!r} is none of its candidates {self.candidate_choices}{hint}"
        )

    @property
    def max_choice(self) -> int | float:
        """The widest candidate; the full width where the unit can't change."""
        return self.choice_of(self._numbers[-1] if self.can_change else self.num_channels)

    @property
    def min_choice(self) -> int | float:
        """The narrowest candidate."""
        return self.choice_of(self._numbers[0])

    def sample_choice(self, rng: random.Random | None = None) -> int | float:
        """One of the candidates, all equally likely."""
        if not self.can_change:
            return self.max_choice
        return self.choice_of((rng or random).choice(self._numbers))

    def init_args(self) -> dict[str, Any]:
        """The arguments that make an equal unit."""
        return {
            "num_channels": self.num_channels,
            "divisor": self.divisor,
            "min_value": self.min_value,
            "min_ratio": self.min_ratio,
            "candidate_choices": self.candidate_choices,
            "choice_mode": self.choice_mode,
        }
