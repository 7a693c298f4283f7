"""How far a pruning has come, as plain data: what a checkpoint needs to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_channels._plain import is_int, is_number
from lightning_channels.errors import StructureError, check_keys
from lightning_channels.pruning.timing import Span

__all__ = ["Progress"]

_KEYS = ("span", "numbers", "costs", "done", "finished")
_SPAN = ("start", "end", "interval", "first")


@dataclass
class Progress:
    """How far a pruning has come.

    Args:
        span: Its steps.
        numbers: Unit → active channels at its start.
        costs: Resource → what there was of it at its start.
        done: The last step at which what was due was done.
        finished: Whether the target is reached.
    """

    span: Span
    numbers: dict[str, int]
    costs: dict[str, float]
    done: int | None = None
    finished: bool = False

    def state(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "span": {key: getattr(self.span, key) for key in _SPAN},
            "numbers": dict(self.numbers),
            "costs": dict(self.costs),
            "done": self.done,
            "finished": self.finished,
        }

    @classmethod
    def of(cls, state: object) -> Progress:
        """What :meth:`state` returned.

        Raises:
            StructureError: If it is something else.
        """
        check_keys(state, _KEYS, "a pruner's progress", StructureError)
        assert isinstance(state, Mapping)
        for key, fits, kind in _CHECKS:
            if key not in state or not fits(state[key]):
                raise StructureError(f"a pruner's progress must have {kind} as {key!r}, got {state.get(key)!r}")
        span = Span(**state["span"])
        return cls(span, dict(state["numbers"]), dict(state["costs"]), state["done"], state["finished"])

    def check_fits(self, numbers: Mapping[str, int], limits: Mapping[str, float]) -> None:
        """Refuse to go on with another model, or for another resource.

        Args:
            numbers: Unit → active channels now.
            limits: The resources that are limited.

        Raises:
            StructureError: If the units or the resources differ, or if a unit has more channels than at the start.
        """
        for kind, own, given in (("units", self.numbers, numbers), ("resources", self.costs, limits)):
            other = sorted(set(own) ^ set(numbers)) if kind == "units" else sorted(set(given) - set(own))
            if other:
                raise StructureError(f"the pruner's state is of a model with other {kind}: {', '.join(other[:3])}")
        wider = [name for name, number in numbers.items() if number > self.numbers[name]]
        if wider:
            raise StructureError(
                f"unit {wider[0]!r} has {numbers[wider[0]]} channels, and the pruner began with "
                f"{self.numbers[wider[0]]}; load the mutator's structure of that moment first"
            )


def _is_step(value: object) -> bool:
    return is_int(value) and value >= 0


def _is_span(value: object) -> bool:
    if not isinstance(value, Mapping) or set(value) != set(_SPAN):
        return False
    end = value["end"]
    whole = all(_is_step(value[key]) for key in ("start", "interval", "first"))
    return whole and value["interval"] > 0 and (end is None or (_is_step(end) and end >= value["start"]))


def _is_table(value: object, least: float, whole: bool) -> bool:
    fits = is_int if whole else is_number
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and fits(item) and item >= least for key, item in value.items()
    )


_CHECKS = (
    ("span", _is_span, "start, end, interval and first"),
    ("numbers", lambda value: _is_table(value, 1, True), "a number of channels for each unit"),
    ("costs", lambda value: _is_table(value, 0, False), "an amount of each resource"),
    ("done", lambda value: value is None or _is_step(value), "a step, or None,"),
    ("finished", lambda value: isinstance(value, bool), "true or false"),
)
