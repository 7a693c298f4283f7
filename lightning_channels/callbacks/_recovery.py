"""What the callback is told about pruning: how to prune, and how the pruned subnet recovers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from lightning_channels.errors import ConfigError, check_keys, did_you_mean
from lightning_channels.pruning import Pruner

__all__ = ["Recovery", "TeacherKind", "pruner_maker", "read_recovery"]

TeacherKind = Literal["frozen", "live"]

_TEACHERS = ("frozen", "live")
_PRUNING = ("scope", "floor", "ignore", "divisor", "normalizer", "regrow")
_MEASURING = "latency"  # of the callback's pruning, and none of the pruner's arguments


@dataclass(frozen=True)
class Recovery:
    """How the pruned subnet gets well again.

    Args:
        teacher: Which unpruned model it learns from; None for none.
        lr_rewind: Whether learning rates begin anew when the pruning is finished.
        hold_back: Whether callbacks that watch a metric wait until then.
    """

    teacher: TeacherKind | None = None
    lr_rewind: bool = False
    hold_back: bool = True


def read_recovery(given: Any, pruned: bool, distilled: bool) -> Recovery:
    """Make a recovery of a dict of its arguments, or of None.

    Args:
        given: What the user wrote.
        pruned: Whether there is anything to recover from.
        distilled: Whether a distillation was given, which needs a teacher: the frozen one by default.

    Raises:
        ConfigError: If a key is unknown or an argument isn't allowed.
    """
    if not pruned:
        if given is not None:
            raise ConfigError("recovery is of a pruning; give a target as well, for instance target={'flops': 0.5}")
        return Recovery()
    options = {} if given is None else given
    check_keys(options, [field.name for field in fields(Recovery)], "recovery")
    found = Recovery(**{**({"teacher": "frozen"} if distilled else {}), **options})
    if found.teacher is not None and found.teacher not in _TEACHERS:
        hint = did_you_mean(found.teacher, _TEACHERS)
        raise ConfigError(f"recovery: teacher must be 'frozen', 'live' or None, got {found.teacher!r}{hint}")
    if found.teacher is None and distilled:
        raise ConfigError("recovery: distillation was given and teacher=None; leave out one of the two")
    for name in ("lr_rewind", "hold_back"):
        if not isinstance(getattr(found, name), bool):
            raise ConfigError(f"recovery: {name} must be true or false, got {getattr(found, name)!r}")
    return found


def pruner_maker(
    criterion: Any, target: Any, schedule: Any, pruning: Any, recipe: Mapping[str, Any]
) -> Callable[[], Pruner] | None:
    """What makes a pruner of the callback's arguments; None where they ask for no pruning.

    Args:
        criterion: As the callback takes it.
        target: As the callback takes it.
        schedule: As the callback takes it.
        pruning: As the callback takes it.
        recipe: What the mutator's type says of criterion and schedule, in place of what is None.

    Raises:
        ConfigError: If a key is unknown.
    """
    if criterion is None and target is None and schedule is None and pruning is None:
        return None
    options: Mapping[str, Any] = {} if pruning is None else pruning
    check_keys(options, (*_PRUNING, _MEASURING), "pruning")
    options = {name: value for name, value in options.items() if name != _MEASURING}
    how = recipe.get("criterion", "l1") if criterion is None else criterion
    when = recipe.get("schedule", "one_shot") if schedule is None else schedule
    return partial(Pruner, how, target, when, **options)
