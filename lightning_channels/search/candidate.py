"""One evaluated choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_channels._plain import is_number
from lightning_channels.errors import ConfigError, check_complete, check_keys, did_you_mean

__all__ = ["Candidate", "floats_by_name", "numbers_by_name", "read_metrics"]

_KEYS = ("choices", "metrics", "resources", "generation")


@dataclass(frozen=True)
class Candidate:
    """A choice, what it scored and what it costs.

    Attributes:
        choices: Unit → choice, as :meth:`ChannelMutator.set_choices` takes them.
        metrics: What its evaluation returned, by name; what wasn't finite is left out.
        resources: What it costs, by name.
        generation: At which question to the algorithm it came up, counted from 0: the generation of an evolution, the
            step of a greedy search.
    """

    choices: dict[str, int | float]
    metrics: dict[str, float]
    resources: dict[str, float]
    generation: int

    def to_dict(self) -> dict[str, Any]:
        """The candidate as plain data."""
        return {key: dict(value) if isinstance(value := getattr(self, key), dict) else value for key in _KEYS}

    @classmethod
    def from_dict(cls, data: object, what: str = "a candidate") -> Candidate:
        """Read what :meth:`to_dict` returned.

        Args:
            data: Plain data, from anywhere.
            what: What it is called in messages.

        Raises:
            ConfigError: If a key is missing or unknown, or a value is of another kind.
        """
        check_keys(data, _KEYS, what)
        assert isinstance(data, Mapping)
        check_complete(data, _KEYS, what)
        generation = data["generation"]
        if type(generation) is not int or generation < 0:
            raise ConfigError(f"{what}'s generation must be a whole number from 0 on, got {generation!r:.100}")
        choices = numbers_by_name(data["choices"], f"{what}'s choices")
        metrics, resources = (floats_by_name(data[key], f"{what}'s {key}") for key in ("metrics", "resources"))
        return cls(choices, metrics, resources, generation)


def numbers_by_name(data: object, what: str) -> dict[str, int | float]:
    """A dict of finite numbers.

    Raises:
        ConfigError: If it is something else.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{what} must be a dict, name → number, got {data!r:.100}")
    for name, value in data.items():
        if not is_number(value):
            raise ConfigError(f"{what} must be finite numbers, got {value!r:.100} for {name!r:.200}")
    return {str(name): value for name, value in data.items()}


def floats_by_name(data: object, what: str) -> dict[str, float]:
    """A dict of finite numbers, each as a float.

    Raises:
        ConfigError: If it is something else.
    """
    return {name: float(value) for name, value in numbers_by_name(data, what).items()}


def read_metrics(returned: object, metric: str, choices: Mapping[str, int | float]) -> dict[str, float]:
    """The finite metrics that an evaluation returned.

    Args:
        returned: Name → a number or a tensor of one.
        metric: The one that must be there.
        choices: What was evaluated, for messages.

    Raises:
        ConfigError: If it is no such dict, or ``metric`` is missing or not finite.
    """
    at = f"evaluate, at the choice {dict(choices)!r:.300}"
    if not isinstance(returned, Mapping):
        raise ConfigError(f"{at}, must return a dict, metric → number, got {type(returned).__name__}")
    if metric not in returned:
        hint = did_you_mean(metric, returned) or "."
        known = ", ".join(map(str, returned)) or "no metric at all"
        raise ConfigError(f"{at}, returned no metric {metric!r}{hint} It returned {known}")
    read = {str(name): _number(value, str(name), at) for name, value in returned.items()}
    if not math.isfinite(read[metric]):
        raise ConfigError(f"{at}, returned the metric {metric!r} as {read[metric]}; a search compares finite numbers")
    return {name: value for name, value in read.items() if math.isfinite(value)}


def _number(value: Any, name: str, at: str) -> float:
    item = value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise ConfigError(f"{at}, returned the metric {name!r} as {value!r:.100}; it must be one number")
    return float(item)
