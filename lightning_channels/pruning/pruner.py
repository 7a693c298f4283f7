"""Pruning to a target while a model trains, on plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_channels._plain import is_int
from lightning_channels.criteria import CriterionLike
from lightning_channels.divisors import is_auto, resolve_divisor
from lightning_channels.errors import ConfigError, PrepareError, StructureError, check_keys
from lightning_channels.mutators import ChannelMutator
from lightning_channels.pruning.bounds import Width, WidthsLike, bounds_of, check_ignore, check_widths
from lightning_channels.pruning.events import PruneEvent
from lightning_channels.pruning.pace import check_pace, still_to_do
from lightning_channels.pruning.plan import Plan
from lightning_channels.pruning.progress import Progress
from lightning_channels.pruning.reach import check_reachable
from lightning_channels.pruning.schedules import GreedySchedule, ScheduleLike, share_at
from lightning_channels.pruning.scorer import Scorer
from lightning_channels.pruning.targets import Limits, TargetLike, parse_target
from lightning_channels.pruning.timing import read_schedule
from lightning_channels.resources import Resources

__all__ = ["Pruner"]

_SCOPES = ("global", "unit")


class Pruner:
    """Prunes a model to a target as it trains: which channels, how many, and when.

    The weights stay where they are, full size; what changes is which channels are active. The optimizer and the loss
    need nothing.

    Args:
        criterion: What a channel is worth: a registered name, a dict with ``type`` and arguments, a criterion or a
            function unit → scores, larger for more important ones.
        target: What may be left, by resource: a share of the full net (``{"flops": 0.5}``, ``"50%"``) or an amount
            (``{"params": "10M"}``, ``{"latency_ms": 3.0}``; FLOPs, MACs and activations of one sample); several are
            reached all together. None where ``scope`` gives the widths.
        schedule: How to go there: ``"one_shot"``, ``"linear"``, ``"cubic"``, ``"greedy"``, a dict with ``type`` and
            arguments, or a function progress → share of the way. ``start_step``, ``end_step`` and ``interval`` may
            stand in the dict, too.
        scope: ``"global"``: all units' channels are ranked together. ``"unit"``: all units keep the same share of their
            channels, up to one step. A dict of pattern → width: the units with such names end with it, a number of
            channels (a whole number) or a part of them; the others are ranked for the target, or stay as they are if
            there is none.
        floor: The fewest channels that a unit keeps: a number, a part of its channels, or a dict of pattern → such.
        ignore: Patterns of units that stay as they are.
        divisor: Of what the sizes of layers are multiples, as far as they get smaller: a number, ``"auto"`` for what
            this machine is fast with in PyTorch, or ``"auto:onnxruntime"``; see :func:`recommended_divisor`. It comes
            on top of what the units' own divisors ask for.
        normalizer: How the criterion brings the scores of different units to one scale; its own way by default.
        start_step: The optimizer step before which the pruning starts.
        end_step: The step before which the target is reached; by default half the training. A greedy schedule goes on
            until the target is reached, and drops what is left of the way at once where ``end_step`` is given.
        interval: Channels are dropped at every so many steps.
        regrow: Whether dropped channels may come back in later steps of the schedule, if their scores say so.

    Raises:
        ConfigError: If an argument is not allowed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_channels import ChannelMutator
        >>> mutator = ChannelMutator()
        >>> mutator.prepare_from_supernet(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.randn(1, 4))
        >>> pruner = Pruner(lambda unit: torch.arange(8.0), {"params": 0.5})
        >>> pruner.start(mutator, total_steps=100)
        >>> print(pruner.before_step(0))
        step 0: params 23 of 58 (39.7%); 1 of 1 units changed; the nearest reachable choice below the target: params 29
        >>> mutator.kept_channels()
        {'0_(0, 8)_8': [5, 6, 7]}
    """

    def __init__(
        self,
        criterion: CriterionLike,
        target: TargetLike | None,
        schedule: ScheduleLike = "one_shot",
        *,
        scope: str | Mapping[str, Width] = "global",
        floor: WidthsLike = 1,
        ignore: str | list[str] | tuple[str, ...] = (),
        divisor: int | str = 1,
        normalizer: Any = None,
        start_step: int = 0,
        end_step: int | None = None,
        interval: int = 1,
        regrow: bool = False,
    ) -> None:
        self._scorer = Scorer(criterion, normalizer)
        self.target = None if target is None else parse_target(target)
        self.schedule, self.timing = read_schedule(schedule, start_step, end_step, interval)
        if not isinstance(scope, Mapping) and scope not in _SCOPES:
            raise ConfigError(f"scope must be 'global', 'unit' or a dict of pattern → width, got {scope!r}")
        self.scope = scope
        self._given = check_widths(scope, "the scope") if isinstance(scope, Mapping) else {}
        self._floor = check_widths(floor, "the floor")
        self._ignore = check_ignore(ignore)
        self.divisor, self.auto_divisor = resolve_divisor(divisor), is_auto(divisor)
        if not isinstance(regrow, bool):
            raise ConfigError(f"regrow must be true or false, got {regrow!r}")
        self.regrow = regrow
        if target is None and not self._given:
            raise ConfigError('a target is needed, such as {"flops": 0.5}; only a scope that gives widths needs none')
        if isinstance(self.schedule, GreedySchedule) and scope != "global":
            raise ConfigError("the greedy schedule compares the channels of all units; leave scope at 'global'")
        self._plan: Plan | None = None
        self._progress: Progress | None = None
        self._loaded: dict[str, Any] | None = None

    # --- a run -------------------------------------------------------------------------------------------------------

    def start(self, mutator: ChannelMutator, total_steps: float | None, resources: Resources | None = None) -> None:
        """Begin with a prepared model, or go on where the state that was loaded before stopped.

        Args:
            mutator: The model's; it keeps the channels that it keeps now, if some were pruned before.
            total_steps: How many optimizer steps the training has; None, -1 or infinity if it has no end.
            resources: What choices cost; made of the mutator by default, for one sample.

        Raises:
            PrepareError: If the mutator isn't prepared.
            ConfigError: If the target can't be reached or names what isn't counted, if a pattern matches no unit, or if
                the schedule doesn't fit the training (a greedy one that can't come to its end, too). Nothing has begun
                then.
            StructureError: If the loaded state is of another model.
        """
        self.stop()
        plan = self._plan_for(mutator, resources)
        loaded, state = (None, None) if self._loaded is None else self._read(self._loaded, plan)
        progress = loaded or self._begin(plan, total_steps)
        if not progress.finished:
            self._scorer.start(mutator.model, plan.scored)
            self._scorer.load_state_dict(state)
        self._plan, self._progress, self._loaded = plan, progress, None

    def _plan_for(self, mutator: ChannelMutator, resources: Resources | None) -> Plan:
        units = mutator.mutable_units
        if not units:
            raise ConfigError(
                "the model has no unit that can change, so there is nothing to prune; mutator.report() says why"
            )
        resources = Resources(mutator, per_sample=True) if resources is None else resources
        if isinstance(self.schedule, GreedySchedule):
            self.schedule.check(resources.totals)
        limits = Limits({}) if self.target is None else self.target.limits(resources.totals)
        bounds = bounds_of(units, self._floor, self._ignore, self._given, self.divisor)
        return Plan(mutator, resources, bounds, limits, spread=self.scope == "unit", regrow=self.regrow)

    def _begin(self, plan: Plan, total_steps: float | None) -> Progress:
        span = self.timing.span(self.schedule, total_steps)
        check_reachable(plan.resources, plan.bounds, plan.resources.current, plan.limits)
        if isinstance(self.schedule, GreedySchedule):
            check_pace(plan.resources, plan.bounds, plan.limits, self.schedule, span, total_steps)
        return Progress(span, plan.numbers(), plan.measured(), finished=plan.is_met())

    def before_step(self, step: int) -> PruneEvent | None:
        """Prune, if it is time to; to be called before the first batch of each optimizer step.

        Args:
            step: The number of optimizer steps that were taken so far.

        Returns:
            What changed; None if nothing did.

        Raises:
            PrepareError: If :meth:`start` wasn't called.
            ConfigError: If the criterion's scores are no finite numbers, one for each channel; nothing is changed then.
        """
        plan, progress = self._running()
        if not is_int(step) or step < 0:
            raise ConfigError(f"step must be the number of optimizer steps that were taken, got {step!r}")
        due = None if progress.finished or step < progress.span.start else progress.span.due(step, progress.done)
        if due is None:
            return None
        share = share_at(self.schedule, progress.span.progress(step))
        if share > 0 and not self._scorer.ready:
            return None
        before = plan.numbers()
        if share > 0:
            self._prune(plan, progress, step, share)
        progress.done = due
        progress.finished = self._at_end(plan, progress, step)
        if share > 0 and not progress.finished:
            self._scorer.renew()
        if progress.finished:
            self._scorer.stop()
        after = plan.numbers()
        if after == before and not progress.finished:
            return None
        totals, limits = plan.resources.totals, plan.limits.amounts
        return PruneEvent(
            step, share, before, after, plan.measured(), dict(limits), dict(totals), finished=progress.finished
        )

    def _prune(self, plan: Plan, progress: Progress, step: int, share: float) -> None:
        scores = {unit.name: self._scorer.scores(unit) for unit in plan.scored}
        if isinstance(self.schedule, GreedySchedule):
            steps = None if progress.span.ends_at(step) else self.schedule.channels
            plan.step_down(scores, progress.numbers, self.schedule.per, steps)
        else:
            plan.narrow(scores, progress.numbers, plan.limits.between(progress.costs, share), share)

    def _at_end(self, plan: Plan, progress: Progress, step: int) -> bool:
        """Whether nothing is left to do; a schedule goes on to its end, at which channels may still change places."""
        return plan.is_met() if isinstance(self.schedule, GreedySchedule) else progress.span.ends_at(step)

    def after_backward(self) -> None:
        """Let the criterion look at the gradients; to be called after each backward pass."""
        self._scorer.after_backward()

    def stop(self) -> None:
        """Let go of the model, and take the criterion's hooks off; what was pruned stays so."""
        self._scorer.stop()

    def _running(self) -> tuple[Plan, Progress]:
        if self._plan is None or self._progress is None:
            raise PrepareError("the pruner has no model yet; call start(mutator, total_steps) first")
        return self._plan, self._progress

    # --- how far it is -----------------------------------------------------------------------------------------------

    @property
    def criterion(self) -> Any:
        """The criterion."""
        return self._scorer.criterion

    @property
    def started(self) -> bool:
        """Whether it has a model."""
        return self._plan is not None

    @property
    def finished(self) -> bool:
        """Whether the schedule is at its end."""
        return self._progress is not None and self._progress.finished

    @property
    def reached(self) -> dict[str, float]:
        """Resource → what is left of it now.

        Raises:
            PrepareError: If :meth:`start` wasn't called.
        """
        return self._running()[0].measured()

    @property
    def limits(self) -> dict[str, float]:
        """Resource → what the target allows of it.

        Raises:
            PrepareError: If :meth:`start` wasn't called.
        """
        return dict(self._running()[0].limits.amounts)

    @property
    def least(self) -> dict[str, float]:
        """Resource → what is left of it with every unit at its narrowest.

        Raises:
            PrepareError: If :meth:`start` wasn't called.
        """
        return self._running()[0].least()

    def unfinished(self) -> str | None:
        """What is not done yet, and what to change if the training is over; None once the pruning is finished.

        Raises:
            PrepareError: If :meth:`start` wasn't called.
        """
        plan, progress = self._running()
        if progress.finished:
            return None
        return still_to_do(plan.resources, plan.limits, self.schedule)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, as plain data and tensors; which channels are kept is the mutator's to say."""
        if self._progress is None:
            return dict(self._loaded or {})
        criterion = None if self._progress.finished else self._scorer.state_dict()
        return {"progress": self._progress.state(), "criterion": criterion, "divisor": self.divisor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, now or with the next :meth:`start`.

        Args:
            state: What :meth:`state_dict` returned.

        Raises:
            StructureError: If it is something else, or of another model; nothing is changed then.
        """
        check_keys(state, ("progress", "criterion", "divisor"), "a pruner's state", StructureError)
        if not state:
            return
        divisor = self._stored_divisor(state)
        if self._plan is None:
            Progress.of(state.get("progress"))
            self._loaded, self.divisor = dict(state), divisor
            return
        progress, criterion = self._read(state, self._plan)
        self._scorer.load_state_dict(criterion)
        self._progress, self.divisor = progress, divisor
        self._plan = self._plan_for(self._plan.mutator, self._plan.resources)
        if progress.finished:
            self._scorer.stop()

    def _stored_divisor(self, state: Mapping[str, Any]) -> int:
        """A divisor that was left to the machine stays what it was on the one where the run began."""
        divisor = state.get("divisor", self.divisor)
        if not is_int(divisor) or divisor < 1:
            raise StructureError(f"a pruner's divisor must be a positive integer, got {divisor!r}")
        return divisor if self.auto_divisor else self.divisor

    @staticmethod
    def _read(state: Mapping[str, Any], plan: Plan) -> tuple[Progress, dict[str, Any] | None]:
        progress = Progress.of(state.get("progress"))
        progress.check_fits(plan.numbers(), plan.limits.amounts)
        return progress, state.get("criterion")
