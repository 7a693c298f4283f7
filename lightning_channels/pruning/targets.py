"""What a pruned net may cost: read from what users write, checked against what the model costs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from lightning_channels._plain import is_number
from lightning_channels.errors import ConfigError, did_you_mean

__all__ = ["Limits", "Target", "TargetLike", "parse_target"]

_PREFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_UNITS = {"activations": "B", "latency_ms": "ms"}
_FORMS = 'allowed are a share of the full net (0.5 or "50%") and an amount (12000000 or "12M")'
_LATENCY = "latency_ms"
_TRACED = ("flops", "macs", "activations")


@dataclass(frozen=True)
class Amount:
    """One resource's goal: a share of the full width's total, or an amount."""

    value: float
    relative: bool

    def of(self, total: float) -> float:
        """The amount, where the full width has ``total``."""
        return self.value * total if self.relative else self.value


@dataclass(frozen=True)
class Limits:
    """Amounts that may not be exceeded, by resource.

    Args:
        amounts: Resource → most that is allowed.
    """

    amounts: dict[str, float]

    def met(self, measured: Mapping[str, Any]) -> bool:
        """Whether no resource is over its limit."""
        return all(float(measured[name]) <= amount for name, amount in self.amounts.items())

    def shares(self, measured: Mapping[str, Tensor]) -> Tensor:
        """What of its limit each resource takes up, above 1 where it is over it: shape (choices, resources)."""
        return torch.stack([measured[name] / amount for name, amount in self.amounts.items()], dim=-1)

    def between(self, start: Mapping[str, float], share: float) -> Limits:
        """The limits at a share of the way from what ``start`` took up; what was below its limit anyway keeps it."""
        return Limits(
            {
                name: amount if share >= 1 else amount + (1 - share) * max(0.0, float(start[name]) - amount)
                for name, amount in self.amounts.items()
            }
        )


@dataclass(frozen=True)
class Target:
    """What to reach, of one resource or several at once; each is an upper limit.

    Args:
        amounts: Resource → goal.
    """

    amounts: dict[str, Amount] = field(default_factory=dict)

    def limits(self, totals: Mapping[str, float]) -> Limits:
        """The limits for a model.

        Args:
            totals: What the model costs at full width, by resource.

        Raises:
            ConfigError: If a resource is unknown, was not counted, or if an amount is above the model's total.
        """
        for name, amount in self.amounts.items():
            self._check(name, amount, totals)
        return Limits({name: amount.of(float(totals[name])) for name, amount in self.amounts.items()})

    def met(self, measured: Mapping[str, Any], totals: Mapping[str, float]) -> bool:
        """Whether a choice that costs ``measured`` reaches the target, where the full width costs ``totals``."""
        return self.limits(totals).met(measured)

    @staticmethod
    def _check(name: str, amount: Amount, totals: Mapping[str, float]) -> None:
        if name not in totals:
            if name == _LATENCY:
                raise ConfigError(
                    "the target names latency_ms, and nothing knows this model's latency; measure a LatencyModel "
                    f"and give it to Resources.add_latency, or take one of {', '.join(totals)}"
                )
            if name in _TRACED:
                raise ConfigError(
                    f"the target names {name}, and this model was prepared without running it, so they were not "
                    f"counted; prepare it with a tracer, or take one of {', '.join(totals)}"
                )
            hint = did_you_mean(name, totals) or "."
            raise ConfigError(f"the target names an unknown resource {name!r}{hint} Known: {', '.join(totals)}")
        total = float(totals[name])
        if not amount.relative and amount.value > total:
            raise ConfigError(
                f"the target's {name} of {readable(amount.value)} are more than the whole model has: {readable(total)}"
            )


TargetLike: TypeAlias = "Target | Mapping[str, float | int | str]"


def parse_target(value: TargetLike) -> Target:
    """Read a target.

    Args:
        value: Resource → a share of the full net (``0.5`` or ``"50%"``) or an amount (``12_000_000``, ``"12M"``, for
            activations also ``"24MB"``, for latency ``3.0`` or ``"3ms"``). Numbers up to 1 are shares.

    Returns:
        The target; a target is returned as it is.

    Raises:
        ConfigError: If it is no such dict, or if a value isn't positive, is a share above 1, or could be both share and
            amount.

    Example:
        >>> parse_target({"flops": "50%", "params": "10M"}).limits({"flops": 4e9, "params": 25e6}).amounts
        {'flops': 2000000000.0, 'params': 10000000.0}
    """
    if isinstance(value, Target):
        return value
    given: Any = value
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f'a target must be a dict of resource → value, such as {{"flops": 0.5}}, got {value!r}')
    return Target({str(name): _amount(str(name), amount) for name, amount in given.items()})


def _amount(name: str, value: object) -> Amount:
    if isinstance(value, str):
        amount = _from_text(name, value)
    elif is_number(value):
        amount = _from_number(name, float(value))
    else:
        amount = None
    if amount is None:
        raise ConfigError(f"the target's {name} is {value!r}; {_FORMS}")
    if not 0 < amount.value < math.inf:
        raise ConfigError(f"the target's {name} must be above 0, got {value!r}; {_FORMS}")
    if amount.relative and amount.value > 1:
        raise ConfigError(f"the target's {name} must be at most 100% of the full net, got {value!r}; {_FORMS}")
    return amount


def _from_number(name: str, value: float) -> Amount:
    if name == _LATENCY and 0 < value <= 1:
        raise ConfigError(
            f"the target's {name} of {value:g} could be a share or milliseconds; "
            f"write '{100 * value:g}%' or '{value:g}ms'"
        )
    return Amount(value, value <= 1)


def _from_text(name: str, text: str) -> Amount | None:
    text = text.replace("_", "").strip()
    match = re.fullmatch(r"([+-]?[\d.]+(?:e[+-]?\d+)?)\s*(%|[a-zA-Z]*)", text)
    if match is None:
        return None
    try:
        number = float(match[1])
    except ValueError:
        return None
    suffix = match[2]
    if suffix == "%":
        return Amount(number / 100, True)
    if not suffix:
        return _from_number(name, number)
    unit = _UNITS.get(name, "")
    prefix = suffix.removesuffix(unit)
    if prefix in _PREFIXES and not (unit == "B" and prefix == "B"):
        return Amount(number * _PREFIXES[prefix], False)
    return None


def readable(value: float) -> str:
    """A number with a prefix: ``12.5M``."""
    for prefix in ("T", "G", "M", "k"):
        if value >= 0.9995 * _PREFIXES[prefix]:
            return f"{value / _PREFIXES[prefix]:.4g}{prefix}"
    return f"{value:.4g}"
