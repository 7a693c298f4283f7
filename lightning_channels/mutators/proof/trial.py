"""One set of units, narrow together: the ways in which that can go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import compress
from typing import Any

from torch import Tensor, nn

from lightning_channels.mutables import batch_update
from lightning_channels.mutators.proof.blame import Comparison, Failure, Sections, first_departure
from lightning_channels.mutators.proof.draws import Draw
from lightning_channels.mutators.proof.narrow import Outcome
from lightning_channels.mutators.proof.setting import Setting, widen
from lightning_channels.tracing.program import Ref
from lightning_channels.tracing.replay import Replay, UnsupportedReplayError
from lightning_channels.units import MutableChannelUnit

__all__ = ["CHECKS", "Trial"]

CHECKS = ("eval", "zeroed", "train", "exported")
"""Narrow in eval mode against the replay, that one against the zeroed full model, train mode, and the exported form."""

_NARROW, _EXPORTED = "narrow", "exported"
_ELSE = "computes something else than its operators do"


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
        self._direct = direct
        self._is_direct = direct and not self._watch and all(setting.is_comparable(unit) for unit in units)
        self._setting = setting
        self._units = units
        self._draw = draw
        self._active = frozenset(setting.numbers[id(unit)] for unit in units)
        self._eval_replay: Replay | None = None

    def check(self, name: str) -> Failure | None:
        """What is wrong, by one of the :data:`CHECKS`; ``None`` if nothing is."""
        failure = self._check(name)
        setting = self._setting
        if failure is None or not setting.has_scales:
            return failure
        # a factor may be a constant of the model, or be computed anew: what the narrow model does must fit one of them
        setting.rescale = not setting.rescale
        if Trial(setting, self._units, self._draw, self._watch, self._direct)._check(name) is None:
            return None
        setting.rescale = not setting.rescale
        return failure

    def _check(self, name: str) -> Failure | None:
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
        return again._check(name) or (again._check("zeroed") if name == "eval" else None) or failure

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

    def _sections(self, train: bool) -> Sections:
        sections = self._setting.train if train else self._setting.eval
        assert sections is not None
        return sections

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check_eval(self) -> Failure | None:
        if self._eval.crash is not None:
            return self._crashed(self._eval, train=False, what=_NARROW)
        if self._is_direct:
            return self._compare_zeroed(self._eval, self._units)
        setting = self._setting
        self._eval_replay = setting.replay(self._units, self._draw.kept, setting.eval)
        return self._compare_replay(self._eval, self._eval_replay, train=False)

    def _check_train(self) -> Failure | None:
        setting = self._setting
        if setting.train is None:
            return None
        if self._train.crash is not None:
            return self._crashed(self._train, train=True, what=_NARROW)
        outcome = self._train
        if setting.train_alike:
            # the same operators on the same example: eval mode's results are train mode's
            if self._eval.crash is None and not self._departs(self._train, self._eval):
                return None
            outcome = self._narrow(lambda: self._run(setting.model, train=True))
            if outcome.crash is not None:
                return self._crashed(outcome, train=True, what=_NARROW)
        replay = setting.replay(self._units, self._draw.kept, setting.train, self._eval_replay)
        return self._compare_replay(outcome, replay, train=True)

    def _check_zeroed(self) -> Failure | None:
        units = [unit for unit in self._units if self._setting.is_comparable(unit)]
        if not units or self._is_direct:
            return None
        alone = self if len(units) == len(self._units) else Trial(self._setting, units, self._draw, self._watch)
        if alone._eval.crash is not None:
            return alone._crashed(alone._eval, train=False, what=_NARROW)
        return self._compare_zeroed(alone._eval, units)

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
                ended = first_departure(outcome.calls, twin.calls, setting.tolerance)
                difference = setting.tolerance.difference(outcome.outputs, twin.outputs)
                failure = self._judge(ended, difference, train, _EXPORTED, how)
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

    def _compare_replay(self, outcome: Outcome, replay: Replay, train: bool) -> Failure | None:
        """Run a replay, and compare what it computes with what the narrow model did."""
        sections = self._sections(train)
        comparison = Comparison(outcome.calls, sections, self._setting.tolerance)
        try:
            outputs = self._run_replay(replay, self._setting.values, train, comparison.see)
        except UnsupportedReplayError as error:
            if error.op is None or sections.ranked.isdisjoint(ref.id for ref in error.op.inputs()):
                return self._unsupported(error)
            failure = self._judge(comparison.ended, None, train)
            return failure or sections.unchecked(error.op, self._active, str(error))
        return self._judge(comparison.ended, self._setting.tolerance.difference(outcome.outputs, outputs), train)

    def _compare_zeroed(self, outcome: Outcome, units: list[MutableChannelUnit]) -> Failure | None:
        """Run the full program with zeros where weights read what the units drop, and compare what that leaves.

        Sums over zeros are rounded in other ways. That may change an order, so what depends on one isn't compared.
        """
        setting, sections = self._setting, self._setting.eval
        dropped = setting.dropped(units, self._draw.kept)
        slicing, maps, ranked = Replay(setting.graph, dropped), sections.walk.maps, sections.ranked
        comparison = Comparison(outcome.calls, sections, setting.tolerance)

        def see(ref: int, value: Tensor) -> None:
            if ref not in ranked:
                comparison.see(ref, slicing.sliced(value, maps.get(ref, ())))

        full, zeroed = setting.replay([], {}, sections), setting.reference.tensors(setting.values, dropped)
        difference = None
        try:
            outputs = self._run_replay(full, zeroed, False, see)
            firm = [ref not in ranked for ref in sections.program.outputs]
            expected, own = list(compress(outputs, firm)), list(compress(outcome.outputs, firm))
            difference = setting.tolerance.difference(own, expected)
        except UnsupportedReplayError as error:
            if error.op is None or ranked.isdisjoint(ref.id for ref in error.op.inputs()):
                return self._unsupported(error)
        how = (
            _ELSE if self._is_direct else "computes something else than the full model with the dropped channels zeroed"
        )
        return self._judge(comparison.ended, difference, False, how=how)

    def _run_replay(
        self, replay: Replay, tensors: Mapping[str, Tensor], train: bool, see: Callable[[int, Tensor], None]
    ) -> list[Tensor]:
        watch = self._sections(train).watch if self._watch else ()
        return replay.run(tensors, self._setting.tensors(train), watch, see)

    def _judge(
        self, ended: int | None, difference: str | None, train: bool, what: str = _NARROW, how: str = _ELSE
    ) -> Failure | None:
        """The failure of a model of which so many module calls ended rightly, and whose outputs differ like that."""
        ended = ended if self._watch else None
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
