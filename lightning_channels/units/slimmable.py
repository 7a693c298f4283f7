"""A unit of a slimmable network: a few widths, and batch norms with statistics of their own for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_channels._plain import is_int
from lightning_channels.dynamic_ops import check_switchable, containers, is_dynamic, make_switchable, unswitch
from lightning_channels.dynamic_ops.switching import SwitchableMixin
from lightning_channels.errors import ChoiceError, ConfigError
from lightning_channels.mutables import BaseMutableChannel, IndexSelection, SlimmableMutableChannel
from lightning_channels.mutables.selection import size_of
from lightning_channels.registry import UNITS
from lightning_channels.units.attach import check_fits
from lightning_channels.units.one_shot import OneShotMutableChannelUnit

__all__ = ["SlimmableChannelUnit"]

_MOST_CANDIDATES = 256


@UNITS.register(aliases=("slimmable",))
class SlimmableChannelUnit(OneShotMutableChannelUnit):
    """Keeps the first channels, as many as the active candidate says; its batch norms switch with the candidate.

    Each candidate has its own batch-norm parameters and statistics. They belong to its number and not to its width, so
    that equally wide candidates, which can lie in different subnets, keep theirs apart. The widest one's are those that
    the model has anyway.

    Args:
        num_channels: Number of channels.
        candidate_choices: Numbers or ratios, as ``choice_mode`` says; rounded and sorted. An empty list means the full
            width alone.
        choice_mode: ``"number"`` or ``"ratio"``.
        divisor: Candidates are rounded to a multiple of it.
        min_value: Fewest channels.
        min_ratio: Rounding loses at most ``1 - min_ratio`` of the channels.

    Raises:
        ConfigError: If an argument is not allowed.

    Example:
        >>> unit = SlimmableChannelUnit(48, [40, 20, 30], divisor=8)
        >>> unit.candidate_choices, unit.current_choice, unit.current_candidate
        ([24, 32, 40], 40, 2)
        >>> unit.current_choice = 24
        >>> unit.current_candidate
        0
    """

    mutable_class: ClassVar[type[BaseMutableChannel]] = SlimmableMutableChannel
    mutable_channel: SlimmableMutableChannel

    def __init__(
        self,
        num_channels: int,
        candidate_choices: Sequence[int | float] = (),
        choice_mode: str = "number",
        divisor: int | str = 1,
        min_value: int = 1,
        min_ratio: float = 0.9,
    ) -> None:
        self._switched: list[str] = []
        super().__init__(num_channels, candidate_choices, choice_mode, divisor, min_value, min_ratio)

    def _rounded(self) -> list[int]:
        """The candidates as numbers of channels, ascending; equal ones stay apart, each is a subnet's."""
        if len(self._given) > _MOST_CANDIDATES:
            raise ConfigError(
                f"candidate_choices has {len(self._given)} entries, and at most {_MOST_CANDIDATES} are allowed: norms "
                "have parameters of their own for each"
            )
        return sorted(super(OneShotMutableChannelUnit, self).number_of(choice) for choice in self._given)

    # --- candidates --------------------------------------------------------------------------------------------------

    @property
    def candidate_numbers(self) -> list[int]:
        """The candidates as numbers of channels, ascending."""
        return list(self._numbers)

    @property
    def current_candidate(self) -> int | None:
        """The number of the active candidate, counted from 0; None where channels were kept by hand."""
        return self.mutable_channel.candidate

    @current_candidate.setter
    def current_candidate(self, candidate: int) -> None:
        last = len(self._numbers) - 1
        if not is_int(candidate) or not 0 <= candidate <= last:
            raise ChoiceError(f"unit {self.name!r} has no candidate {candidate!r}; allowed are 0 to {last}")
        number = self._numbers[candidate]
        if number != self.num_channels and not self.can_change:
            raise ChoiceError(f"unit {self.name!r} can't change ({self.why_not()}); its choice is {self.max_choice!r}")
        self.mutable_channel.take(candidate, self._first(number))
        if self._changed is not None:
            self._changed()

    def _activate(self, channels: int | IndexSelection) -> None:
        """Activate channels; where they are as many as a candidate's, as that candidate, of equals the last."""
        number = size_of(channels, self.num_channels)
        equal = [candidate for candidate, width in enumerate(self._numbers) if width == number]
        if equal:
            self.mutable_channel.take(equal[-1], channels)
        else:
            super()._activate(channels)

    def stand_at(self, candidate: int) -> None:
        """Take the active channels to be those of a candidate, which has as many."""
        selection = self.mutable_channel.selection
        self.mutable_channel.take(candidate, self.num_channels if selection is None else selection)

    # --- the model ---------------------------------------------------------------------------------------------------

    def prepare_for_pruning(self, model: nn.Module) -> None:
        """Turn the modules of this unit into dynamic ops, the batch norms among them into switchable ones.

        Raises:
            StructureError: If the model lacks one of the modules.
            PrepareError: If a norm can't be made switchable.
            ConfigError: If a norm is shared with a unit that has another number of candidates. As after every error,
                nothing is changed then.
        """
        check_fits(model, self.name, self.channels)
        norms = dict(self._norms(model))
        for name, norm in norms.items():
            self._check_shared(name, norm)
            check_switchable(norm, len(self._numbers))
        super().prepare_for_pruning(model)
        self._switched = [name for name, norm in norms.items() if not isinstance(norm, SwitchableMixin)]
        for norm in norms.values():
            make_switchable(norm, len(self._numbers))

    def leave(self, model: nn.Module) -> None:
        """Take the candidates off the norms that this unit made switchable."""
        for name in self._switched:
            unswitch(model.get_submodule(name))
        self._switched = []
        super().leave(model)

    def _norms(self, model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        for name in dict.fromkeys(channel.name for channel in self.channels):
            module = model.get_submodule(name)
            if isinstance(module, _BatchNorm):
                yield name, module

    def _check_shared(self, name: str, norm: nn.Module) -> None:
        """Refuse a norm over several units' channels whose candidates don't correspond."""
        for container in containers(norm).values() if is_dynamic(norm) else ():
            for mutable in container.mutables:
                other = mutable.root.owner
                if isinstance(other, SlimmableChannelUnit) and len(other._numbers) != len(self._numbers):
                    raise ConfigError(
                        f"the norm {name!r} has channels of unit {self.name!r} with {len(self._numbers)} candidates"
                        f" and of unit {other.name!r} with {len(other._numbers)}; give both equally many"
                    )
