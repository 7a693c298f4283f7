"""A set of channels that can only change together: how many of them are active, and which."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from lightning_channels._plain import is_int
from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutables import BaseMutableChannel, SimpleMutableChannel
from lightning_channels.units.channel import Channel
from lightning_channels.units.rounding import check_number

__all__ = ["ChannelChoice"]


class ChannelChoice:
    """What a unit is without its model: channels, one choice for them, and what constrains it.

    Args:
        num_channels: Number of channels.
    """

    mutable_class: ClassVar[type[BaseMutableChannel]] = SimpleMutableChannel

    def __init__(self, num_channels: int) -> None:
        if not is_int(num_channels) or num_channels < 1:
            raise ConfigError(f"num_channels must be a positive integer, got {num_channels!r}")
        self.num_channels = num_channels
        self.output_related: list[Channel] = []
        self.input_related: list[Channel] = []
        self.attributes: list[Channel] = []
        self.mutable_channel = self.mutable_class(num_channels)
        self.mutable_channel.owner = self
        self.groups = 1
        self.exact = True
        self.inexact: str | None = None
        self.reduced = False
        self.reason: str | None = None
        self.model: nn.Module | None = None
        self._name: str | None = None
        self._changed: Callable[[], None] | None = None  # of the mutator, where the model keeps what widths decide

    # --- identity ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """``module_(start, end)_num_channels`` of the first channel, outputs before inputs."""
        if self._name is None:
            first = next(iter([*self.output_related, *self.input_related]), None)
            if first is None:
                return f"unit_{self.num_channels}"
            self._name = f"{first.label}_{(first.start, first.end)}_{self.num_channels}"
            self.mutable_channel.name = self._name
        return self._name

    @property
    def channels(self) -> list[Channel]:
        """All channels, outputs first."""
        return [*self.output_related, *self.input_related]

    @property
    def is_mutable(self) -> bool:
        """Whether the number of active channels can change."""
        distinct = self.num_channels // self.groups
        read = bool(self.input_related) or self.reduced
        return self.reason is None and bool(self.output_related) and read and distinct > 1

    @property
    def can_change(self) -> bool:
        """Whether choices below the full width are allowed: mutable units, and units that have no channels yet."""
        return self.is_mutable or not (self.output_related or self.input_related)

    # --- choices -----------------------------------------------------------------------------------------------------

    @property
    def current_choice(self) -> int | float:
        """The choice that stands for the active channels: their number, or what a subclass makes of it."""
        return self.choice_of(self.mutable_channel.activated_channels)

    @current_choice.setter
    def current_choice(self, choice: int | float) -> None:
        self.keep_first(self.check_choice(choice))
        if self._changed is not None:
            self._changed()

    def number_of(self, choice: int | float) -> int:
        """The number of channels that a choice stands for, rounded to what the constraints allow.

        Raises:
            ChoiceError: If the choice isn't one.
        """
        return self.allowed_number(check_number(choice, self.num_channels, self.name))

    def allowed_number(self, number: float) -> int:
        """The number of channels nearest to ``number`` that the groups allow."""
        return min(self.num_channels, max(1, math.floor(number / self.groups + 0.5)) * self.groups)

    def choice_of(self, number: int) -> int | float:
        """The choice that stands for a number of channels."""
        return number

    def check_choice(self, choice: int | float) -> int:
        """The number of channels for a choice, without setting it.

        Raises:
            ChoiceError: If the choice isn't one, or if the unit can't change and the choice isn't its full width.
        """
        number = self.number_of(choice)
        if number != self.num_channels and not self.can_change:
            raise ChoiceError(f"unit {self.name!r} can't change ({self.why_not()}); its choice is {self.max_choice!r}")
        return number

    def why_not(self) -> str:
        """Why the unit is not mutable; an empty string if it is."""
        if self.is_mutable:
            return ""
        if self.reason is not None:
            return self.reason
        if not self.output_related:
            return "it is the model's input"
        if not self.input_related and not self.reduced:
            return "nothing in the model reads it"
        return "its channels can only be kept or dropped all together"

    @property
    def max_choice(self) -> int | float:
        """The choice for all channels."""
        return self.choice_of(self.num_channels)

    @property
    def min_choice(self) -> int | float:
        """The narrowest choice."""
        return self.choice_of(self.allowed_number(1))

    def sample_choice(self, rng: random.Random | None = None) -> int | float:
        """A random choice.

        Args:
            rng: Source of randomness; Python's global one by default.
        """
        if not self.can_change:
            return self.max_choice
        return self.choice_of(self.allowed_number((rng or random).randint(1, self.num_channels)))

    # --- which channels ----------------------------------------------------------------------------------------------

    def keep_first(self, number: int) -> None:
        """Activate the first ``number`` channels, in every group as many."""
        self.mutable_channel.keep(self._first(number))

    def _first(self, number: int) -> int | list[int]:
        """The first ``number`` channels, in every group as many, as a mutable's ``keep`` takes them."""
        if self.groups == 1 or number == self.num_channels:
            return number
        width, inside = self.num_channels // self.groups, number // self.groups
        return [g * width + i for g in range(self.groups) for i in range(inside)]

    def keep(self, channels: Sequence[int] | Tensor) -> None:
        """Activate exactly these channels.

        Args:
            channels: Indices, or a boolean mask, shape (num_channels,).

        Raises:
            ChoiceError: If there are none, if one is out of range, or if groups would keep different channels.
        """
        probe = BaseMutableChannel(self.num_channels)
        probe.name = f"unit {self.name!r}"
        probe.keep(channels)
        rows = probe.current_mask.reshape(self.groups, -1)
        if self.groups > 1 and not bool((rows == rows[:1]).all()):
            raise ChoiceError(
                f"every one of the {self.groups} groups of unit {self.name!r} must keep the same channels"
            )
        if not self.can_change and probe.activated_channels != self.num_channels:
            raise ChoiceError(f"unit {self.name!r} can't change ({self.why_not()})")
        self.mutable_channel.keep(channels)
        if self._changed is not None:
            self._changed()
