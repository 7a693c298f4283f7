"""The proof: a unit is mutable only if the model, run narrow, computes what its recorded operators compute when narrow.

"It ran without an error" proves nothing: a hard-coded ``unflatten(-1, (4, -1))`` runs with two of four heads gone and
computes something else. So the narrowed Python model is compared with :class:`lightning_channels.tracing.Replay`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from functools import partial

from torch import nn

from lightning_channels._modules import unchanging
from lightning_channels.mutators.proof.blame import Failure
from lightning_channels.mutators.proof.draws import Draw, make_draws
from lightning_channels.mutators.proof.kinds import Kinds
from lightning_channels.mutators.proof.record import ProofRecord
from lightning_channels.mutators.proof.search import Search
from lightning_channels.mutators.proof.setting import Setting, widen
from lightning_channels.mutators.proof.trial import CHECKS, Trial
from lightning_channels.tracing import ModuleGraph
from lightning_channels.tracing.running import ExampleInputs, evaluating
from lightning_channels.units import MutableChannelUnit

__all__ = ["Proof"]

_Passed = set[tuple[str, str, frozenset[int]]]
"""(draw, check, units) that needn't be run again."""


class Proof:
    """Runs a prepared model narrow and refuses the units for which that comes out wrong.

    All units are narrowed together: to random channels, to a random number of the first ones, and to one channel, in
    eval and in train mode. Each time every module must return what the recorded operators give without the dropped
    channels; for exact units that must be what is left of the full model where the weights that read these channels are
    zero; and the exported model must return the same. Only inside a set that fails are units tried apart.

    Args:
        graph: The traced model.
        units: One for each of the graph's groups, in their order.
        inputs: Example inputs.
        full: Whether each unit must pass alone as well, at one channel and at random channels.
    """

    def __init__(
        self, graph: ModuleGraph, units: list[MutableChannelUnit], inputs: ExampleInputs, full: bool = False
    ) -> None:
        self._graph = graph
        self._all = units
        self._inputs = inputs
        self._full = full

    def run(self, model: nn.Module) -> ProofRecord:
        """Refuse the units that fail: their ``reason`` says why, and their modules keep their full width.

        Returns:
            How it was done.
        """
        began = time.perf_counter()
        units = [unit for unit in self._all if unit.is_mutable]
        before = {id(unit): unit.mutable_channel.snapshot() for unit in units}
        widen(units)  # units that aren't tried are at full width, wherever their type lets them start
        with unchanging(model), evaluating(model):
            setting = Setting(self._graph, self._all, self._inputs, model)
            passing = _Passing(setting, make_draws(units, wide=setting.ranks), Kinds(model, units))
            accepted = passing.together(units)
            while self._full and (left := passing.apart(accepted)) != accepted:
                accepted = passing.together(left)
        for unit in units:
            if unit in accepted:
                unit.mutable_channel.put_back(before[id(unit)])
            else:
                unit.detach(model)
                unit.reason = passing.problems[id(unit)].reason
        return ProofRecord(
            mode="full" if self._full else "default",
            eval=bool(units),
            train=bool(units) and setting.train is not None,
            train_error=getattr(self._graph, "training_error", ""),
            exact_compared=any(setting.is_comparable(unit) for unit in accepted),
            runs=setting.runs,
            seconds=time.perf_counter() - began,
        )


class _Passing:
    """Finds out which units pass.

    Args:
        setting: The model.
        draws: Which channels are kept.
        kinds: Kinds of the units.

    Attributes:
        problems: id of a unit that didn't pass → why.
    """

    def __init__(self, setting: Setting, draws: list[Draw], kinds: Kinds) -> None:
        self._setting = setting
        self._draws = draws
        self._kinds = kinds
        self._passed: _Passed = set()
        self.problems: dict[int, Failure] = {}

    def together(self, units: list[MutableChannelUnit]) -> list[MutableChannelUnit]:
        """The units of a set that pass every check together."""
        while units:
            for draw, check, trial in self._checks(units):
                failure = trial.check(check)
                if failure is not None:
                    search = Search(partial(self._attempt, draw, check), self._concerned, self._kinds)
                    units = search.run(units, failure)
                    self.problems |= search.problems
                    break
                self._passed.add((draw.name, check, _ids(units)))
            else:
                break
        return units

    def apart(self, units: list[MutableChannelUnit]) -> list[MutableChannelUnit]:
        """The units that pass each alone."""
        passing = []
        for unit in units:
            failures = (trial.check(check) for _, check, trial in self._checks([unit]))
            failure = next((failure for failure in failures if failure is not None), None)
            if failure is None:
                passing.append(unit)
            else:
                self.problems[id(unit)] = Failure(f"alone, {failure.reason}")
                gc.collect(1)  # as after an attempt
        return passing

    def _checks(self, units: list[MutableChannelUnit]) -> Iterator[tuple[Draw, str, Trial]]:
        """What is still to be checked; the runs of one draw share what they computed."""
        for number, draw in enumerate(self._draws):
            # every module is looked at where all is as small as can be
            trial = Trial(self._setting, units, draw, watch=number == len(self._draws) - 1, direct=number == 0)
            for check in CHECKS:
                if number > 0 and check in ("zeroed", "exported"):
                    continue  # once is enough for what doesn't depend on how the channels were chosen
                if number > 0 and check == "train" and self._setting.train_alike:
                    continue  # nor does what train mode computes, where it runs the very operators of eval mode
                if (draw.name, check, _ids(units)) not in self._passed:
                    yield draw, check, trial

    def _attempt(self, draw: Draw, check: str, units: list[MutableChannelUnit]) -> Failure | None:
        gc.collect(1)  # it is paused meanwhile, and what crashes leave behind holds on to itself
        return Trial(self._setting, units, draw).check(check)

    def _concerned(self, failure: Failure, units: list[MutableChannelUnit]) -> list[MutableChannelUnit]:
        return [unit for unit in units if self._setting.numbers[id(unit)] in failure.places]


def _ids(units: list[MutableChannelUnit]) -> frozenset[int]:
    return frozenset(id(unit) for unit in units)
