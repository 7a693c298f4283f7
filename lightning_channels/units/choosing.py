"""A set of channels that can only change together: how many of them are active, and which."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeGuard, cast

from torch import Tensor, nn

from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutables import BaseMutableChannel, IndexSelection, SimpleMutableChannel
from lightning_channels.mutables.selection import as_mask, normalise, size_of
from lightning_channels.units.channel import Channel
from lightning_channels.units.order import check_order, first_of, order_of
from lightning_channels.units.places import ChannelLists, PackedLists
from lightning_channels.units.rounding import check_number

__all__ = ["ChannelChoice", "Choice", "is_listed"]

Choice: TypeAlias = "int | float | Sequence[int]"
"""A number of channels or a ratio, or which channels to keep."""

_PLAIN_NUMBERS = frozenset((int, float))


def is_listed(choice: object) -> TypeGuard[Sequence[int]]:
    """Whether something that is given as a choice says which channels to keep."""
    if type(choice) in _PLAIN_NUMBERS:
        return False
    return isinstance(choice, (list, tuple)) or (isinstance(choice, Tensor) and choice.dim() > 0)


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
        self._lists: ChannelLists | PackedLists = ChannelLists()
        self.mutable_channel = self.mutable_class(num_channels)
        self.mutable_channel.owner = self
        self.groups = 1
        self.exact = True
        self.inexact: str | None = None
        self.reduced = False
        self.reason: str | None = None
        self.model: nn.Module | None = None
        self._name: str | None = None
        self._order: Tensor | None = None
        self._leading: dict[tuple[int, int], int | IndexSelection] = {}  # (groups, number) → the first of the order
        self._changed: Callable[[], None] | None = None  # of the mutator, where the model keeps what widths decide

    # --- identity ----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """``module_(start, end)_num_channels`` of the first channel, outputs before inputs."""
        if self._name is None:
            first = next(iter(self.channels), None)
            if first is None:
                return f"unit_{self.num_channels}"
            self._name = f"{first.label}_{(first.start, first.end)}_{self.num_channels}"
            self.mutable_channel.name = self._name
        return self._name

    # of a prepared model's unit the lists are copies; one that is set takes the place of what is there

    @property
    def output_related(self) -> list[Channel]:
        """Channels on output sides."""
        return self._lists.unpacked().output_related

    @output_related.setter
    def output_related(self, channels: list[Channel]) -> None:
        self._unpacked().output_related = channels

    @property
    def input_related(self) -> list[Channel]:
        """Channels on input sides; a norm's are in both lists."""
        return self._lists.unpacked().input_related

    @input_related.setter
    def input_related(self, channels: list[Channel]) -> None:
        self._unpacked().input_related = channels

    @property
    def attributes(self) -> list[Channel]:
        """Integer attributes of modules that count these channels, and follow them."""
        return self._lists.unpacked().attributes

    @attributes.setter
    def attributes(self, channels: list[Channel]) -> None:
        self._unpacked().attributes = channels

    def _unpacked(self) -> ChannelLists:
        """The lists, which the unit holds from now on."""
        self._lists = self._lists.unpacked()
        return self._lists

    def pack(self) -> None:
        """Hold the channels in little memory; their lists are copies then."""
        if isinstance(self._lists, ChannelLists):
            self._lists = PackedLists(self._lists)

    @property
    def channels(self) -> list[Channel]:
        """All channels, outputs first."""
        lists = self._lists.unpacked()
        return [*lists.output_related, *lists.input_related]

    @property
    def is_mutable(self) -> bool:
        """Whether the number of active channels can change."""
        outputs, inputs, _ = self._lists.numbers
        if self.reason is not None or not outputs:
            return False
        return bool(inputs or self.reduced) and self.num_channels // self.groups > 1

    @property
    def can_change(self) -> bool:
        """Whether choices below the full width are allowed: mutable units, and units that have no channels yet."""
        return self.is_mutable or not any(self._lists.numbers[:2])

    # --- choices -----------------------------------------------------------------------------------------------------

    @property
    def current_choice(self) -> int | float:
        """The choice that stands for the active channels: their number, or what a subclass makes of it."""
        return self.choice_of(self.mutable_channel.activated_channels)

    @current_choice.setter
    def current_choice(self, choice: Choice) -> None:
        self.choose(choice)
        self._tell()

    def choose(self, choice: Choice) -> None:
        """Set a choice, or the channels to keep, one of several that change together; the model isn't told.

        Raises:
            ChoiceError: If the choice isn't one, or if exactly these channels can't be kept.
        """
        if is_listed(choice):
            self._activate(self._selected(choice))
        else:
            self.keep_first(self._checked(choice))

    def _tell(self) -> None:
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

    def check_choice(self, choice: Choice) -> int:
        """The number of channels for a choice, or for a list of channels to keep, without setting it.

        Raises:
            ChoiceError: If the choice isn't one, or if the unit can't change and the choice isn't its full width.
        """
        if is_listed(choice):
            return size_of(self._selected(choice), self.num_channels)
        return self._checked(choice)

    def _checked(self, choice: Choice) -> int:
        number = self.number_of(cast("int | float", choice))  # or something else, which it refuses
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

    def rank(self, scores: Sequence[float] | Tensor | None) -> None:
        """Let the choices from now on keep the channels of highest score; what is active stays so until then.

        Where groups must keep the same channels, the scores of the same place in all groups are summed. Of equal
        scores the first counts more.

        Args:
            scores: One for each channel, larger is more important; None to keep the first channels again.

        Raises:
            ChoiceError: If there are more or fewer, or one is no number.
        """
        what = f"unit {self.name!r}"
        self._reorder(None if scores is None else order_of(scores, self.num_channels, self.groups, what))

    @property
    def order(self) -> list[int] | None:
        """The places in a group in the order in which they are kept; None where these are the first ones."""
        return None if self._order is None else self._order.tolist()

    @order.setter
    def order(self, order: Sequence[int] | None) -> None:
        inside = self.num_channels // self.groups
        self._reorder(None if order is None else check_order(order, inside, f"unit {self.name!r}"))

    def _reorder(self, order: Tensor | None) -> None:
        self._order, self._leading = order, {}

    def keep_first(self, number: int) -> None:
        """Activate the first ``number`` channels, by :meth:`rank` if it was called, in every group as many."""
        self._activate(self._first(number))

    def _first(self, number: int) -> int | IndexSelection:
        """The first ``number`` channels, in every group as many, as a mutable's ``keep`` takes them."""
        if self._order is None and self.groups == 1:
            return number
        key = self.groups, number
        if key not in self._leading:
            self._leading[key] = first_of(self._order, number, self.num_channels, self.groups)
        return self._leading[key]

    def _activate(self, channels: int | IndexSelection) -> None:
        self.mutable_channel.keep(channels)

    @property
    def kept(self) -> list[int] | None:
        """The active channels; None where they are the first ones, and their number is a choice that keeps these."""
        if not self.can_change:
            return None
        number, selection = self.mutable_channel.activated_channels, self.mutable_channel.selection
        active = self.num_channels if selection is None else selection
        first = first_of(None, number, self.num_channels, self.groups)
        if active == first and self._leads_to(active, number):
            return None
        kept: list[int] = self.mutable_channel.kept.tolist()
        return kept

    def _leads_to(self, active: int | IndexSelection, number: int) -> bool:
        """Whether to choose a number is enough to have these channels active."""
        try:
            is_allowed = self.check_choice(self.choice_of(number)) == number
        except ChoiceError:  # no candidate has this width
            is_allowed = False
        return is_allowed and active == self._first(number)

    def read_state(self, state: Mapping[str, Any]) -> Choice | None:
        """Take over the order that was written down, and say what there is to choose.

        Args:
            state: ``choice``, ``kept`` and ``order``, each of which may be missing.

        Returns:
            The channels to keep, else the choice; None where there is neither.

        Raises:
            ChoiceError: If one isn't allowed, or if not as many channels are kept as the choice says. The order is
                then as it was.
        """
        choice, kept, order = (state.get(key) for key in ("choice", "kept", "order"))
        read = None if order is None else check_order(order, self.num_channels // self.groups, f"unit {self.name!r}")
        if kept is not None:
            self._check_kept(kept, choice)
        elif choice is not None and is_listed(choice):
            self.number_of(cast(Any, choice))  # refuses it: channels are written down as what is kept
        self._reorder(read)
        chosen: Choice | None = choice if kept is None else kept
        return chosen

    def _check_kept(self, kept: object, choice: object) -> None:
        """Check channels that were written down, and that they are as many as the choice beside them says."""
        if not isinstance(kept, (list, tuple)) or not all(map(is_int, kept)):
            raise ChoiceError(f"the kept channels of unit {self.name!r} must be a list of integers, got {kept!r:.200}")
        number = self.check_choice(kept)
        meant = self.choice_of(number)
        if choice is not None and not (is_number(choice) and math.isclose(choice, meant, rel_tol=1e-9)):
            raise ChoiceError(
                f"unit {self.name!r} has the choice {choice!r} and keeps {number} channels, which is the choice "
                f"{meant!r}. To change the choice, leave out what is kept"
            )

    def keep(self, channels: Sequence[int] | Tensor) -> None:
        """Activate exactly these channels.

        Args:
            channels: Indices, or a boolean mask, shape (num_channels,).

        Raises:
            ChoiceError: If there are none, if one is out of range, or if groups would keep different channels.
        """
        self.mutable_channel.keep(self._selected(channels))
        self._tell()

    def _selected(self, channels: Sequence[int] | Tensor) -> int | IndexSelection:
        """What is to be kept, checked."""
        selection = normalise(channels, self.num_channels, f"unit {self.name!r}")
        if selection is None:
            return self.num_channels
        if self.groups > 1:
            rows = as_mask(selection, self.num_channels).reshape(self.groups, -1)
            if not bool((rows == rows[:1]).all()):
                raise ChoiceError(
                    f"every one of the {self.groups} groups of unit {self.name!r} must keep the same channels"
                )
        if not self.can_change:
            raise ChoiceError(f"unit {self.name!r} can't change ({self.why_not()})")
        return selection
