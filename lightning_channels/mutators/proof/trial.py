"""One set of units, narrow together: the ways in which that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

from torch import Tensor, nn

from lightning_channels.mutables import batch_update
from lightning_channels.mutators.proof.blame import Failure, Sections, first_departure
from lightning_channels.mutators.proof.draws import Draw
from lightning_channels.mutators.proof.narrow import Observed, Outcome
from lightning_channels.mutators.proof.setting import Setting, widen
from lightning_channels.tracing.program import Ref
from lightning_channels.tracing.replay import Replay, UnsupportedReplayError
from lightning_channels.units import MutableChannelUnit

__all__ = ["CHECKS", "Trial"]

CHECKS = ("eval", "zeroed", "train", "exported")
"""Narrow in eval mode against the replay, that one against the zeroed full model, train mode, and the exported form."""

_NARROW, _EXPORTED = "narrow", "exported"
_ELSE = "computes something else than its operators do"


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A replay that has run, and what it gave; where it depends on how many values were chosen, why it stopped."""

    replay: Replay
    outputs: list[Tensor]
    stopped: UnsupportedReplayError | None = None


class Trial:
    """Runs a model with some units at the channels of a draw, and all others at full width.

    What a run gives is kept, since several checks look at it.

    Args:
        setting: The model.
        units: What is narrow.
        draw: Which channels they keep.
        watch: Whether to compare what every module returns, and not only what the model does. That takes the memory of
            all of it at once; a check that fails without is done again with it, to tell where it went wrong.
        direct: Whether, where it isn't watched, the narrow model may be compared with the zeroed one directly, which
            spares the replay between them.
    """

    def __init__(
        self, setting: Setting, units: list[MutableChannelUnit], draw: Draw, watch: bool = True, direct: bool = False
    ) -> None:
        self._watch = watch or not setting.outputs_tell
        self._is_direct = direct and not self._watch and all(setting.is_comparable(unit) for unit in units)
        self._setting = setting
        self._units = units
        self._draw = draw
        self._active = frozenset(setting.numbers[id(unit)] for unit in units)
        self._eval_replay: Replay | None = None

    def check(self, name: str) -> Failure | None:
        """What is wrong, by one of the :data:`CHECKS`; ``None`` if nothing is."""
        checks: dict[str, Callable[[], Failure | None]] = {
            "eval": self._check_eval,
            "zeroed": self._check_zeroed,
            "train": self._check_train,
            "exported": self._check_exported,
        }
        failure = checks[name]()
        if failure is None or self._watch:
            return failure
        again = Trial(self._setting, self._units, self._draw)
        return again.check(name) or (again.check("zeroed") if name == "eval" else None) or failure

    # --- runs --------------------------------------------------------------------------------------------------------

    def _narrow(self, work: Callable[[], Any]) -> Any:
        """Do something while the units are narrow."""
        try:
            with batch_update():
                for unit in self._units:
                    self._draw.set(unit)
            with self._setting.values.placed():
                return work()
        finally:
            widen(self._units)

    @cached_property
    def _eval(self) -> Outcome:
        outcome: Outcome = self._narrow(lambda: self._run(self._setting.model))
        return outcome

    @cached_property
    def _train(self) -> Outcome:
        alike = self._setting.train_alike
        outcome: Outcome = self._narrow(lambda: self._run(self._setting.model, train=True, single=alike))
        return outcome

    def _run(self, model: nn.Module, train: bool = False, single: bool = False) -> Outcome:
        return self._setting.run(model, train, single, self._watch)

    def _replay(self, units: list[MutableChannelUnit], train: bool) -> _Replayed:
        """A replay that has run.

        Raises:
            UnsupportedReplayError: If it can't, and not for the reason that it depends on how many values were chosen.
        """
        setting = self._setting
        sections = self._sections(train)
        twin = self._eval_replay if train else None
        replay = setting.replay(units, self._draw.kept, sections, twin)
        if not train and units is self._units:
            self._eval_replay = replay
        return self._play(replay, setting.values, train)

    def _play(self, replay: Replay, tensors: Mapping[str, Tensor], train: bool) -> _Replayed:
        try:
            return _Replayed(replay, replay.run(tensors, self._setting.tensors(train), self._watched(train)))
        except UnsupportedReplayError as error:
            if error.op is None or self._sections(train).ranked.isdisjoint(ref.id for ref in error.op.inputs()):
                raise
            return _Replayed(replay, [], error)

    def _watched(self, train: bool) -> Collection[int]:
        """References of what the modules return, where that is compared."""
        return self._sections(train).watch if self._watch else ()

    @cached_property
    def _replayed(self) -> _Replayed:
        return self._replay(self._units, train=False)

    def _sections(self, train: bool) -> Sections:
        sections = self._setting.train if train else self._setting.eval
        assert sections is not None
        return sections

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check_eval(self) -> Failure | None:
        if self._eval.crash is not None:
            return self._crashed(self._eval, train=False, what=_NARROW)
        if self._is_direct:
            return self._compare(self._eval, [], self._run_zeroed(self._units).outputs, False, _NARROW)
        try:
            return self._compare_replayed(self._eval, self._replayed, train=False)
        except UnsupportedReplayError as error:
            return self._unsupported(error)

    def _check_train(self) -> Failure | None:
        if self._setting.train is None:
            return None
        if self._train.crash is not None:
            return self._crashed(self._train, train=True, what=_NARROW)
        if self._setting.train_alike:
            # the same operators on the same example: eval mode's results are train mode's
            if self._eval.crash is None and not self._departs(self._train, self._eval):
                return None
            outcome: Outcome = self._narrow(lambda: self._run(self._setting.model, train=True))
            if outcome.crash is not None:
                return self._crashed(outcome, train=True, what=_NARROW)
        else:
            outcome = self._train
        try:
            return self._compare_replayed(outcome, self._replay(self._units, train=True), train=True)
        except UnsupportedReplayError as error:
            return self._unsupported(error)

    def _check_zeroed(self) -> Failure | None:
        setting = self._setting
        units = [unit for unit in self._units if setting.is_comparable(unit)]
        if not units or self._is_direct:
            return None
        try:
            replayed = self._replayed if len(units) == len(self._units) else self._replay(units, train=False)
        except UnsupportedReplayError as error:
            return self._unsupported(error)
        zeroed = self._run_zeroed(units)
        # sums over zeros are rounded in other ways, and that may change an order
        replay, maps, ranked = replayed.replay, setting.eval.walk.maps, setting.eval.ranked
        values = zeroed.replay.watched
        wanted = {ref: replay.sliced(values[ref], maps.get(ref, ())) for ref in values.keys() - ranked}
        own = {ref: replay.watched[ref] for ref in replay.watched.keys() - ranked}
        firm = [ref not in ranked for ref in setting.eval.program.outputs]
        expected, outputs = list(compress(zeroed.outputs, firm)), list(compress(replayed.outputs, firm))
        if zeroed.stopped or replayed.stopped:
            expected, outputs = [], []
        outcome = Outcome(outputs, setting.eval.observed(own))
        how = "computes something else than the full model with the dropped channels zeroed"
        return self._compare(outcome, setting.eval.observed(wanted), expected, False, _NARROW, how)

    def _run_zeroed(self, units: list[MutableChannelUnit]) -> _Replayed:
        """The full program with zeros where weights read what the units drop."""
        setting = self._setting
        full = setting.replay([], {}, setting.eval)
        zeroed = setting.reference.tensors(setting.values, setting.dropped(units, self._draw.kept))
        return self._play(full, zeroed, train=False)

    def _check_exported(self) -> Failure | None:
        from lightning_channels.export.static import static_copy  # export is a layer below this one

        setting = self._setting
        if self._eval.crash is not None:
            return self._crashed(self._eval, train=False, what=_NARROW)
        static = self._narrow(lambda: static_copy(setting.model, throwaway=True))
        with setting.values.placed():  # after the model is wide again: the copy must not depend on it
            for train in (False, True):
                if train and setting.train is None:
                    continue
                twin = self._train if train else self._eval
                outcome = self._run(static, train, single=setting.train_alike)
                if outcome.crash is not None:
                    return self._crashed(outcome, train, _EXPORTED)
                how = "computes something else than the narrow one"
                failure = self._compare(outcome, twin.calls, twin.outputs, train, _EXPORTED, how)
                if failure is None and train:
                    failure = self._compare_statistics(outcome, twin)
                if failure is not None:
                    return failure
        return None

    # --- what went wrong ---------------------------------------------------------------------------------------------

    def _departs(self, outcome: Outcome, twin: Outcome) -> bool:
        tolerance = self._setting.tolerance
        if tolerance.difference(outcome.outputs, twin.outputs) is not None:
            return True
        return self._watch and first_departure(outcome.calls, twin.calls, tolerance) is not None

    def _compare_replayed(self, outcome: Outcome, replayed: _Replayed, train: bool) -> Failure | None:
        calls, stopped = self._sections(train).observed(replayed.replay.watched), replayed.stopped
        if stopped is None or stopped.op is None:
            return self._compare(outcome, calls, replayed.outputs, train, _NARROW)
        before = Outcome([], outcome.calls)
        failure = self._compare(before, calls, [], train, _NARROW)
        return failure or self._sections(train).unchecked(stopped.op, self._active, str(stopped))

    def _compare(
        self,
        outcome: Outcome,
        calls: list[Observed],
        outputs: list[Tensor],
        train: bool,
        what: str,
        how: str = _ELSE,
    ) -> Failure | None:
        tolerance = self._setting.tolerance
        ended = first_departure(outcome.calls, calls, tolerance) if self._watch else None
        difference = tolerance.difference(outcome.outputs, outputs)
        if ended is None and difference is None:
            return None
        return self._sections(train).departure(ended, self._active, how, f"{what}{_mode(train)}")

    def _compare_statistics(self, outcome: Outcome, twin: Outcome) -> Failure | None:
        """Whether train mode left the active entries of the buffers as the exported model left its own."""
        sections = self._sections(train=True)
        dropped = self._setting.dropped(self._units, self._draw.kept)
        replay = Replay(self._setting.graph, dropped, sections.program)
        for ref, name in sections.program.leaves.items():
            if name in outcome.buffers and name in twin.buffers:
                own = replay.sliced(twin.buffers[name], sections.walk.leaf_maps[ref])
                if self._setting.tolerance.departs(own, outcome.buffers[name]):
                    module, _, buffer = name.rpartition(".")
                    how = f"writes something else to {buffer} than the exported one does"
                    reason = f"{module or 'the model'} {how} when it is narrow{_mode(True)}"
                    return Failure(reason, sections.owners_of(Ref(ref)), ("", buffer))
        return None

    def _crashed(self, outcome: Outcome, train: bool, what: str) -> Failure:
        assert outcome.crash is not None
        return self._sections(train).crash(outcome.crash, len(outcome.calls), f"{what}{_mode(train)}")

    def _unsupported(self, error: UnsupportedReplayError) -> Failure:
        return Failure(f"{error}, so it cannot be checked", kind=("", str(error)))


def _mode(train: bool) -> str:
    return " in train mode" if train else ""
