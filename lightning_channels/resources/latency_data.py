"""What was measured of a model's latency, as plain data: enough to estimate it again without measuring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lightning_channels._plain import is_int, is_number, to_plain
from lightning_channels.errors import StructureError, check_keys

__all__ = ["HeldOut", "LatencyData", "Times"]

VERSION = 1
_KEYS = ("version", "device", "threads", "batch_size", "units", "operators", "scale", "offset", "held_out")
_KINDS = ("macs", "activations")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A random choice that took no part in fitting: its latency as predicted and as measured, in milliseconds."""

    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative difference."""
        return abs(self.predicted - self.measured) / self.measured


@dataclass(frozen=True, slots=True)
class Times:
    """What a module's operators took.

    Args:
        module: Its name.
        kind: What decides about it: ``"macs"`` or ``"activations"``.
        work: How much of that there was at each choice, ascending.
        milliseconds: What it took there.
    """

    module: str
    kind: str
    work: list[float]
    milliseconds: list[float]


@dataclass(frozen=True)
class LatencyData:
    """All that an estimate is made of.

    Args:
        device: Where it was measured, such as ``"cpu"`` or ``"cuda:0"``.
        threads: How many threads a CPU had.
        batch_size: How many examples were run at once; None where the inputs don't say.
        units: Name → channels of the mutable units, in their order.
        operators: What was timed alone.
        scale: Milliseconds of the whole model for each of the operators alone.
        offset: Milliseconds that don't depend on the choice.
        held_out: Choices that took no part.
    """

    device: str
    threads: int
    batch_size: int | None
    units: dict[str, int]
    operators: list[Times]
    scale: float
    offset: float
    held_out: tuple[HeldOut, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, lists, strings and numbers."""
        own = {key: getattr(self, key) for key in _KEYS[1:5]}
        return {
            "version": VERSION,
            **own,
            "units": dict(self.units),
            "operators": [[t.module, t.kind, list(t.work), list(t.milliseconds)] for t in self.operators],
            "scale": self.scale,
            "offset": self.offset,
            "held_out": [[pair.predicted, pair.measured] for pair in self.held_out],
        }

    @classmethod
    def of(cls, data: object) -> LatencyData:
        """What :meth:`to_dict` returned.

        Raises:
            StructureError: If it is something else.
        """
        check_keys(data, _KEYS, "a measured latency", StructureError)
        plain = to_plain(data, "a measured latency")
        if plain.get("version") != VERSION:
            raise StructureError(
                f"the measured latency has version {plain.get('version')!r}; this release reads version {VERSION}. "
                "Measure it anew"
            )
        for key, fits, kind in _CHECKS:
            if key not in plain or not fits(plain[key]):
                raise StructureError(f"a measured latency must have {kind} as {key!r}")
        return cls(
            plain["device"],
            plain["threads"],
            plain["batch_size"],
            plain["units"],
            [Times(module, kind, work, taken) for module, kind, work, taken in plain["operators"]],
            float(plain["scale"]),
            float(plain["offset"]),
            tuple(HeldOut(float(predicted), float(measured)) for predicted, measured in plain["held_out"]),
        )


def _is_positive(value: object) -> bool:
    return is_int(value) and value > 0


def _is_device(value: object) -> bool:
    kind, _, index = value.partition(":") if isinstance(value, str) else ("", "", "")
    return kind == "cpu" or (kind == "cuda" and (not index or index.isdecimal()))


def _is_units(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_positive, value.values()))


def _is_curve(values: object) -> bool:
    return isinstance(values, list) and len(values) > 1 and all(is_number(value) and value >= 0 for value in values)


def _is_times(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 4:
        return False
    module, kind, work, taken = value
    whole = isinstance(module, str) and kind in _KINDS and _is_curve(work) and _is_curve(taken)
    return whole and len(work) == len(taken) and all(low <= high for low, high in pairwise(work))


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value)) and value[1] > 0


def _is_listed(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


_CHECKS: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("device", _is_device, "cpu or cuda"),
    ("threads", _is_positive, "a number of threads"),
    ("batch_size", lambda value: value is None or _is_positive(value), "a number of examples, or None,"),
    ("units", _is_units, "a number of channels for each unit"),
    ("operators", _is_listed(_is_times), "lists of module, macs or activations, ascending work and milliseconds"),
    ("scale", lambda value: is_number(value) and value > 0, "a number above 0"),
    ("offset", lambda value: is_number(value) and value >= 0, "a number of at least 0"),
    ("held_out", _is_listed(_is_pair), "pairs of predicted and measured milliseconds"),
)
