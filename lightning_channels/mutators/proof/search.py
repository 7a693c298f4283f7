"""Which units of a set that fails together pass together."""

from __future__ import annotations

from collections.abc import Callable

from lightning_channels.mutators.proof.blame import Failure
from lightning_channels.mutators.proof.kinds import Kinds
from lightning_channels.units import MutableChannelUnit

__all__ = ["Search"]

Units = list[MutableChannelUnit]

_PASSES = 3
_SMALL = 6
"""So many units that are right only together, beside one that is wrong, are found by leaving out each."""


class Search:
    """Finds units that pass together, running few sets.

    First the units leave that a failure concerns, and those of their kind, until the rest passes. Then these are tried
    again with what has passed: as a group, and apart only where a group fails. What passes stays, and the others get
    another chance with it, because a unit may be right only together with another one. Of units of one kind two are
    tried; where both fail at the same line of code, so do the others.

    Args:
        attempt: Runs a set of units; gives what is wrong.
        concerned: The units of a set that a failure concerns.
        kinds: Kinds of the units.

    Attributes:
        problems: id of a unit that didn't pass → its last failure.
    """

    def __init__(
        self,
        attempt: Callable[[Units], Failure | None],
        concerned: Callable[[Failure, Units], Units],
        kinds: Kinds,
    ) -> None:
        self._attempt = attempt
        self._concerned = concerned
        self._kinds = kinds
        self._accepted: Units = []
        self.problems: dict[int, Failure] = {}

    def run(self, units: Units, failure: Failure) -> Units:
        """The units that pass together.

        Args:
            units: A set that doesn't.
            failure: How it failed.
        """
        self._accepted, aside = self._set_aside(units, failure)
        for _ in range(_PASSES):
            before = len(self._accepted)
            alone = [unit for unit in aside if self._kinds.alone(unit)]
            for group in (alone, [unit for unit in aside if unit not in alone]):
                if group:
                    self._settle(group, self._attempt([*self._accepted, *group]))
            aside = [unit for unit in aside if unit not in self._accepted]
            if not aside or len(self._accepted) == before:
                break
        order = {id(unit): number for number, unit in enumerate(units)}
        return sorted(self._accepted, key=lambda unit: order[id(unit)])

    def _set_aside(self, units: Units, failure: Failure | None) -> tuple[Units, Units]:
        """Units that pass together, and the others."""
        accepted, aside = list(units), list[MutableChannelUnit]()
        while failure is not None:
            kinds = self._kinds.of(self._concerned(failure, accepted))
            leaving = [unit for unit in accepted if self._kinds.like(unit, kinds)] or accepted
            accepted = [unit for unit in accepted if unit not in leaving]
            aside += leaving
            failure = self._attempt(accepted) if accepted else None
        return accepted, aside

    def _settle(self, group: Units, failure: Failure | None) -> None:
        """Accept what passes of a group that gave a certain failure; the rest gets its problem noted."""
        if failure is None:
            self._accepted += group
            return
        if len(group) == 1:
            self.problems[id(group[0])] = failure
            return
        concerned = self._concerned(failure, group)
        rest = [unit for unit in group if unit not in concerned]
        if not concerned or not rest:
            self._halve(group)
            return
        if len(concerned) == 1:
            self.problems[id(concerned[0])] = failure
        else:
            self._try(concerned)
        failed = [unit for unit in concerned if unit not in self._accepted]
        following = self._attempt([*self._accepted, *rest])
        if following is not None and following.kind == failure.kind:
            kinds = self._kinds.of(failed)
            for unit in rest:
                if self._kinds.like(unit, kinds):
                    self.problems[id(unit)] = following
            others = [unit for unit in rest if not self._kinds.like(unit, kinds)]
            if others:
                self._settle(
                    others, following if len(others) == len(rest) else self._attempt([*self._accepted, *others])
                )
            return
        self._settle(rest, following)

    def _try(self, group: Units) -> None:
        self._settle(group, self._attempt([*self._accepted, *group]))

    def _halve(self, group: Units) -> None:
        before = len(self._accepted)
        half = len(group) // 2
        self._try(group[:half])
        self._try(group[half:])
        if len(self._accepted) == before and 2 < len(group) <= _SMALL:
            for unit in group:
                rest = [other for other in group if other is not unit]
                if self._attempt([*self._accepted, *rest]) is None:
                    self._accepted += rest
                    return
