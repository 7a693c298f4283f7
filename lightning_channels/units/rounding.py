"""Rounding of channel numbers."""

from __future__ import annotations

from lightning_channels._plain import is_number
from lightning_channels.errors import ChoiceError

__all__ = ["check_number", "check_ratio", "make_divisible"]


def make_divisible(value: float, divisor: int, min_value: int = 1, min_ratio: float = 0.9) -> int:
    """Round a number of channels to a multiple of ``divisor``, half up, without losing too much.

    This is the rounding of the MobileNet family (Howard et al., "Searching for MobileNetV3", 2019, and its code).

    Args:
        value: Number of channels, maybe fractional.
        divisor: What the result is a multiple of.
        min_value: Smallest result; at least ``divisor``.
        min_ratio: If the result is below this share of ``value``, one more ``divisor`` is added.

    Returns:
        The rounded number; the caller clamps it to what there is.
    """
    rounded = max(min_value, divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < min_ratio * value else rounded


def check_number(choice: object, num_channels: int, unit: str) -> int:
    """A choice in number mode.

    Raises:
        ChoiceError: If it is no whole number from 1 to ``num_channels``.
    """
    if type(choice) is int and 1 <= choice <= num_channels:
        return choice
    allowed = f"allowed are whole numbers from 1 to {num_channels} (choice_mode='number')"
    if not is_number(choice):
        raise ChoiceError(f"the choice {choice!r} of unit {unit!r} is no number; {allowed}")
    if choice != int(choice):
        raise ChoiceError(
            f"the choice {choice!r} of unit {unit!r} is fractional; {allowed}. Use choice_mode='ratio' for ratios"
        )
    if not 1 <= choice <= num_channels:
        raise ChoiceError(f"the choice {choice!r} of unit {unit!r} is out of range; {allowed}")
    return int(choice)


def check_ratio(choice: object, unit: str) -> float:
    """A choice in ratio mode; ``1`` means all channels, as ``1.0`` does.

    Raises:
        ChoiceError: If it is not in (0, 1].
    """
    allowed = "allowed are ratios above 0 and up to 1 (choice_mode='ratio')"
    if not is_number(choice):
        raise ChoiceError(f"the choice {choice!r} of unit {unit!r} is no number; {allowed}")
    if not 0 < choice <= 1:
        raise ChoiceError(
            f"the choice {choice!r} of unit {unit!r} is out of range; {allowed}. Use choice_mode='number' for numbers"
        )
    return float(choice)
