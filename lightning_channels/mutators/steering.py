"""The units of one model, and their widths: which there are, sampling them, setting them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from lightning_channels.errors import ChoiceError, ConfigError, PrepareError, did_you_mean
from lightning_channels.eval_caches import forget
from lightning_channels.mutables import batch_update
from lightning_channels.units import MutableChannelUnit
from lightning_channels.units.choosing import Choice, is_listed

__all__ = ["Steering", "check_kind"]

_KINDS = ("random", "max", "min")


class Steering:
    """Sets the widths of a model's units, once these are known."""

    def __init__(self) -> None:
        self._units: list[MutableChannelUnit] | None = None
        self._keepers: list[nn.Module] = []

    @property
    def units(self) -> list[MutableChannelUnit]:
        """All units, those of the model's input and output too, in the order of their modules."""
        if self._units is None:
            raise PrepareError("no model is prepared; call prepare_from_supernet(model) first")
        return self._units

    @property
    def mutable_units(self) -> list[MutableChannelUnit]:
        """The units whose width can change."""
        return [unit for unit in self.units if unit.is_mutable]

    @property
    def name2unit(self) -> dict[str, MutableChannelUnit]:
        """Name → unit."""
        return {unit.name: unit for unit in self.units}

    def sample_choices(self, kind: str = "random", rng: random.Random | None = None) -> dict[str, int | float]:
        """A choice for every mutable unit.

        Args:
            kind: ``"random"``, ``"max"`` or ``"min"``.
            rng: Source of randomness; Python's global one by default.

        Raises:
            ConfigError: If ``kind`` is another one.
        """
        check_kind(kind)
        if kind == "max":
            return {unit.name: unit.max_choice for unit in self.mutable_units}
        if kind == "min":
            return {unit.name: unit.min_choice for unit in self.mutable_units}
        return {unit.name: unit.sample_choice(rng) for unit in self.mutable_units}

    def check_choices(self, choices: Mapping[str, Choice]) -> list[tuple[MutableChannelUnit, int]]:
        """The numbers of channels that choices stand for, without setting them.

        Args:
            choices: As :meth:`set_choices` takes them.

        Raises:
            ChoiceError: If a name is unknown or a choice is not allowed.
        """
        known = self._named(choices)
        return [(known[name], known[name].check_choice(choice)) for name, choice in choices.items()]

    def set_choices(self, choices: Mapping[str, Choice]) -> None:
        """Set widths; units that are not named keep theirs.

        Args:
            choices: Unit name → number of channels or ratio, as the unit's ``choice_mode`` says; rounded to what
                divisor and groups allow. Or a list of the channels to keep, which is taken as it is.

        Raises:
            ChoiceError: If a name is unknown or a choice is not allowed; no width is changed then.
        """
        units = self._named(choices)
        with batch_update():
            for name, choice in choices.items():
                units[name].choose(choice)
        self.widths_changed()

    def _named(self, names: Iterable[str]) -> dict[str, MutableChannelUnit]:
        known = self.name2unit
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or "."
                raise ChoiceError(f"unknown unit {name!r}{hint} The model has {len(known)} units")
        return known

    def kept_channels(self) -> dict[str, list[int]]:
        """The active channels of the mutable units that keep something else than their first ones."""
        kept = {unit.name: unit.kept for unit in self.mutable_units}
        return {name: channels for name, channels in kept.items() if channels is not None}

    def keep_channels(self, kept: Mapping[str, Sequence[int]]) -> None:
        """Activate exactly these channels; units that are not named keep theirs.

        Args:
            kept: Unit name → indices.

        Raises:
            ChoiceError: If a name is unknown, or a unit can't keep exactly these; nothing is changed then.
        """
        for name, channels in kept.items():
            if not is_listed(channels):
                raise ChoiceError(f"the kept channels of unit {name!r} must be a list of integers, got {channels!r}")
        self.set_choices(kept)

    def widths_changed(self) -> None:
        """Let the model forget what it computed in eval mode at other widths, such as position biases that it keeps.

        A mutator's and its units' methods do that themselves; it is needed where a mutable was set.
        """
        forget(self._keepers)

    @property
    def current_choices(self) -> dict[str, int | float]:
        """The choice of every mutable unit."""
        return {unit.name: unit.current_choice for unit in self.mutable_units}

    @property
    def choice_template(self) -> dict[str, int | float]:
        """The choice of every mutable unit, to be edited and given to :meth:`set_choices`."""
        return self.current_choices


def check_kind(kind: str) -> None:
    """Refuse what is no kind of :meth:`Steering.sample_choices`.

    Raises:
        ConfigError: If it is another one; the message names the nearest match.
    """
    if kind not in _KINDS:
        raise ConfigError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}{did_you_mean(kind, _KINDS)}")
