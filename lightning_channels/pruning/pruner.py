"""Pruning to a target while a model trains, on plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.mutators import ChannelMutator
from lightning_channels.pruning.bounds import Width, WidthsLike, bounds_of, check_ignore, check_widths
from lightning_channels.pruning.criterion import CriterionLike, make_criterion
from lightning_channels.pruning.events import PruneEvent
from lightning_channels.pruning.plan import Plan
from lightning_channels.pruning.reach import check_reachable
from lightning_channels.pruning.schedules import GreedySchedule, ScheduleLike, share_at
from lightning_channels.pruning.state import Progress, read_state
from lightning_channels.pruning.targets import Limits, TargetLike, parse_target
from lightning_channels.pruning.timing import Span, read_schedule
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
            (``{"params": "10M"}``, ``{"latency_ms": 3.0}``); several are reached all together. None where ``scope``
            gives the widths.
        schedule: How to go there: ``"one_shot"``, ``"linear"``, ``"cubic"``, ``"greedy"``, a dict with ``type`` and
            arguments, or a function progress → share of the way. ``start_step``, ``end_step`` and ``interval`` may
            stand in the dict, too.
        scope: ``"global"``: all units' channels are ranked together. ``"unit"``: all units keep the same share of their
            channels. A dict of pattern → width: the units with such names end with it, a number of channels (a whole
            number) or a part of them; the others are ranked for the target, or stay as they are if there is none.
        floor: The fewest channels that a unit keeps: a number, a part of its channels, or a dict of pattern → such.
        ignore: Patterns of units that stay as they are.
        normalizer: How the criterion brings the scores of different units to one scale; its own way by default.
        start_step: The optimizer step before which the pruning starts.
        end_step: The step before which the target is reached; by default half the training. A greedy schedule goes on
            until the target is reached, and drops what is left of the way at once where ``end_step`` is given.
        interval: Channels are dropped at every so many steps.
        regrow: Whether dropped channels may come back in later steps of the schedule, if their scores say so.

    Attributes:
        finished: Whether the target is reached.
        reached: Resource → what is left of it.

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
        step 0: params 23 of 58 (39.7%); 1 of 1 units narrowed; the nearest reachable choice below the target: params 29
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
        normalizer: Any = None,
        start_step: int = 0,
        end_step: int | None = None,
        interval: int = 1,
        regrow: bool = False,
    ) -> None:
        self.finished = False
        self.reached: dict[str, float] = {}
        self.criterion = make_criterion(criterion, normalizer)
        self.target = None if target is None else parse_target(target)
        self.schedule, self.timing = read_schedule(schedule, start_step, end_step, interval)
        if not isinstance(scope, Mapping) and scope not in _SCOPES:
            raise ConfigError(f"scope must be 'global', 'unit' or a dict of pattern → width, got {scope!r}")
        self.scope = scope
        self._given = check_widths(scope, "the scope") if isinstance(scope, Mapping) else {}
        self._floor = check_widths(floor, "the floor")
        self._ignore = check_ignore(ignore)
        if not isinstance(regrow, bool):
            raise ConfigError(f"regrow must be true or false, got {regrow!r}")
        self.regrow = regrow
        if target is None and not self._given:
            raise ConfigError('a target is needed, such as {"flops": 0.5}; only a scope that gives widths needs none')
        if isinstance(self.schedule, GreedySchedule) and scope != "global":
            raise ConfigError("the greedy schedule compares the channels of all units; leave scope at 'global'")
        self._plan: Plan | None = None
        self._span: Span | None = None
        self._progress: Progress | None = None
        self._loaded: dict[str, Any] | None = None
        self._collecting = False

    # --- a run -------------------------------------------------------------------------------------------------------

    def start(self, mutator: ChannelMutator, total_steps: float | None, resources: Resources | None = None) -> None:
        """Begin with a prepared model; what :meth:`load_state_dict` has read before goes on.

        Args:
            mutator: The model's.
            total_steps: How many optimizer steps the training has; None, -1 or infinity if it has no end.
            resources: What choices cost; made of the mutator by default.

        Raises:
            PrepareError: If the mutator isn't prepared.
            ConfigError: If the target can't be reached, names what isn't counted, a pattern matches no unit, or if the
                schedule doesn't fit the training. Nothing is begun then.
        """
        self.stop()
        if not mutator.mutable_units:
            raise ConfigError("the model has no unit that can change, so nothing can be pruned; mutator.report() says why")
        resources = Resources(mutator) if resources is None else resources
        bounds = bounds_of(mutator.mutable_units, self._floor, self._ignore, self._given)
        limits = Limits({}) if self.target is None else self.target.limits(resources.totals)
        if isinstance(self.schedule, GreedySchedule):
            self.schedule.check(resources.names)
        plan = Plan(mutator, resources, bounds, limits, spread=self.scope == "unit", regrow=self.regrow)
        loaded = None if self._loaded is None else Progress.of(self._loaded, resources)
        span = self.timing.span(self.schedule, total_steps) if loaded is None else loaded.span
        if loaded is None:
            check_reachable(resources, bounds, resources.current, limits)
        finished = plan.is_met() if loaded is None else loaded.finished
        self._begin_collecting(mutator, plan, finished)
        self._plan, self._span, self.finished = plan, span, finished
        self._progress = loaded or Progress(span, plan.numbers(), plan.measured())
        self._loaded, self.reached = None, plan.measured()
