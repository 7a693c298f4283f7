"""A unit that keeps its first channels, any number of them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from lightning_channels._plain import is_int, is_number
from lightning_channels.divisors import resolve_divisor
from lightning_channels.errors import ConfigError, did_you_mean
from lightning_channels.mutables import BaseMutableChannel, SquentialMutableChannel
from lightning_channels.registry import UNITS
from lightning_channels.units.base import MutableChannelUnit
from lightning_channels.units.rounding import check_number, check_ratio, make_divisible

__all__ = ["SequentialMutableChannelUnit"]

_MODES = ("number", "ratio")


@UNITS.register(aliases=("sequential",))
class SequentialMutableChannelUnit(MutableChannelUnit):
    """Keeps the first channels.

    Args:
        num_channels: Number of channels.
        choice_mode: Whether choices are numbers of channels (``"number"``) or shares of them (``"ratio"``).
        divisor: Choices are rounded to a multiple of it; the full width is always allowed. ``"auto"`` for what is fast
            on this machine, see :func:`~lightning_channels.recommended_divisor`.
        min_value: Fewest channels.
        min_ratio: Rounding loses at most ``1 - min_ratio`` of the channels.

    Raises:
        ConfigError: If an argument is not allowed.

    Example:
        >>> unit = SequentialMutableChannelUnit(48, choice_mode="ratio", divisor=8)
        >>> unit.current_choice = 0.3
        >>> unit.mutable_channel
        SquentialMutableChannel(num_channels=48, activated_channels=16)
    """

    mutable_class: ClassVar[type[BaseMutableChannel]] = SquentialMutableChannel

    def __init__(
        self,
        num_channels: int,
        choice_mode: str = "number",
        divisor: int | str = 1,
        min_value: int = 1,
        min_ratio: float = 0.9,
    ) -> None:
        super().__init__(num_channels)
        if choice_mode not in _MODES:
            hint = did_you_mean(choice_mode, _MODES)
            raise ConfigError(f"choice_mode must be one of {', '.join(_MODES)}, got {choice_mode!r}{hint}")
        if not is_int(min_value) or min_value < 1:
            raise ConfigError(f"min_value must be a positive integer, got {min_value!r}")
        if not is_number(min_ratio) or not 0 <= min_ratio <= 1:
            raise ConfigError(f"min_ratio must be between 0 and 1, got {min_ratio!r}")
        self.choice_mode = choice_mode
        self.divisor = resolve_divisor(divisor)
        self.min_value = min_value
        self.min_ratio = min_ratio

    def number_of(self, choice: int | float) -> int:
        """The number of channels that a choice stands for, rounded to what divisor and groups allow.

        Raises:
            ChoiceError: If the choice isn't one.
        """
        if self.choice_mode == "ratio":
            return self.allowed_number(check_ratio(choice, self.name) * self.num_channels)
        return self.allowed_number(check_number(choice, self.num_channels, self.name))

    def allowed_number(self, number: float) -> int:
        """The number of channels nearest to ``number`` that divisor, minimum and groups allow."""
        if type(number) is int and self.divisor == self.groups == 1 and self.min_value <= number <= self.num_channels:
            return number
        if number > self.num_channels - 1e-6:
            return self.num_channels
        # a ratio times a number is off by rounding errors: n / N * N must come back as n
        exact = round(number) if abs(number - round(number)) < 1e-6 else number
        rounded = min(self.num_channels, make_divisible(exact, self.divisor, self.min_value, self.min_ratio))
        if rounded % self.groups == 0:
            return rounded
        step = math.lcm(self.divisor, self.groups)
        if step > self.num_channels:
            step = self.groups
        lowest = math.ceil(self.min_value / step) * step
        return min(self.num_channels, max(step, lowest, math.floor(exact / step + 0.5) * step))

    def choice_of(self, number: int) -> int | float:
        """The choice that stands for a number of channels."""
        return number / self.num_channels if self.choice_mode == "ratio" else number

    def init_args(self) -> dict[str, Any]:
        """The arguments that make an equal unit."""
        return {
            "num_channels": self.num_channels,
            "choice_mode": self.choice_mode,
            "divisor": self.divisor,
            "min_value": self.min_value,
            "min_ratio": self.min_ratio,
        }
