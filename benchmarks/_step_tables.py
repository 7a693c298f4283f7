"""The two tables of ``step.py``: what is measured for each, what is good, and how it is shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SANDWICH", "SINGLE", "Ratios", "Table"]

Ratios = dict[str, float | None]
Rows = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """A part of the benchmark.

    Attributes:
        name: Of the option that picks it, and of its section in the file of results.
        title: Above it.
        models: Of torchvision.
        batch: Images in a batch.
        measurements: Each is a process.
        budgets: Largest values that are good.
        columns: Values of a row, and how each is written.
        read: The values from the rows of the measurements and the clock.
        introduction: What stands above the table; a format of the arguments.
    """

    name: str
    title: str
    models: tuple[str, ...]
    batch: int
    measurements: tuple[str, ...]
    budgets: Mapping[str, float]
    columns: Mapping[str, str]
    read: Callable[[Rows, str], Ratios]
    introduction: str

    def misses(self, model: str, ratios: Ratios) -> Iterator[str]:
        """What of a model is beyond what is good, or couldn't be measured."""
        for name, most in self.budgets.items():
            value = ratios.get(name)
            most = _EXCEPTIONS.get((model, name), most)
            if value is None:
                yield f"{model}: {name} couldn't be measured"
            elif value > most and not _is_excused(name, ratios):
                yield f"{model}: {name} is {value:.3f}, not {most:g}"

    def row(self, model: str, ratios: Ratios) -> list[str]:
        """A line of the table."""
        return [
            model,
            *("-" if (v := ratios.get(name)) is None else f"{v:{form}}" for name, form in self.columns.items()),
        ]


_EXCEPTIONS = {("densenet201", "draw, ms"): 1.0}
"""It has four times as many units as the others."""


def _is_excused(name: str, ratios: Ratios) -> bool:
    """A checkpoint may grow by the larger of an absolute size and one percent."""
    return name == "checkpoint, KiB more" and (ratios.get("checkpoint") or 2.0) <= 1.01


def _median(rows: Rows, measurement: str, clock: str) -> float | None:
    """Of each pair's ratio, since what else the machine does comes and goes more slowly than they take turns."""
    pairs = rows.get(measurement, {}).get("pairs", {})
    taken = pairs.get(clock) or pairs.get("wall")
    return statistics.median(own / theirs for own, theirs in taken) if taken else None


def _ratio(own: float | None, theirs: float | None) -> float | None:
    return own / theirs if own is not None and theirs else None


def _read_sandwich(rows: Rows, clock: str) -> Ratios:
    peaks = {name: rows.get(name, {}).get("peak") for name in SANDWICH.measurements}
    fast, twins = rows.get("peak-fast", {}), peaks["peak-twins"]
    whole = None if twins is None or not fast else twins + fast["gradients"]
    return {
        "fast time": _median(rows, "fast", clock),
        "fast memory": _ratio(peaks["peak-fast"], twins),
        "with gradients": _ratio(fast.get("from_none"), whole),
        "lean time": _median(rows, "lean", clock),
        "lean memory": _ratio(peaks["peak-lean"], peaks["peak-pass"]),
    }


SANDWICH = Table(
    name="sandwich",
    title="Steps of a sandwich",
    models=("resnet50", "mobilenet_v2", "convnext_tiny", "densenet121"),
    batch=32,
    measurements=("fast", "lean", "peak-fast", "peak-twins", "peak-lean", "peak-pass"),
    budgets={"fast time": 1.05, "with gradients": 1.05, "lean memory": 1.1},
    columns=dict.fromkeys(("fast time", "fast memory", "with gradients", "lean time", "lean memory"), ".3f"),
    read=_read_sandwich,
    introduction="""\
A sandwich's step, of the whole width, a quarter, and {n_random} widths between, on {batch} images of {size} px; medians
of at least {repeat} interleaved pairs, and of as many as {seconds:g} s hold ({clock} clock). *Time* is over the sum of
the same passes, losses and backward passes on exported models, for `memory="fast"` and `"lean"`. *Fast memory* is over
the sum's peak with gradients allocated before, and *with gradients* the same with one set of gradients on both sides,
as where `zero_grad()` sets them to None, what Lightning does before each backward pass; *lean memory* is over the
widest pass alone. What narrow passes take more, to copy weights and add up gradients, doesn't grow with the batch.""",
)


def _read_single(rows: Rows, clock: str) -> Ratios:
    kept = rows.get("kept", {})
    seconds = rows.get("draw", {}).get("seconds")
    found = {title: _median(rows, name, clock) for name, title in _TIMES.items()}
    own, plain = kept.get("checkpoint", (None, None))
    return {
        **found,
        "draw, ms": statistics.median(seconds) * 1e3 if seconds else None,
        "memory": _ratio(*kept.get("memory", (None, None))),
        "checkpoint": _ratio(own, plain),
        "checkpoint, KiB more": None if own is None else (own - plain) / 1024,
    }


_TIMES = {
    "full": "full / plain",
    "half": "half / twin",
    "half-returned": "half, glibc's heap",
    "floor": "floor",
    "half-floor": "half / floor",
    "trainer-full": "full, Trainer",
    "trainer-half": "half, Trainer",
    "optimizer": "optimizer",
    "reduce": "all-reduce",
}

SINGLE = Table(
    name="single",
    title="Steps at one width",
    models=("resnet50", "mobilenet_v2", "convnext_tiny", "efficientnet_b4", "vit_b_16", "densenet201"),
    batch=8,
    measurements=(*_TIMES, "draw", "kept"),
    budgets={"full / plain": 1.02, "half / twin": 1.04, "draw, ms": 0.3, "memory": 1.01, "checkpoint, KiB more": 200},
    columns={
        **dict.fromkeys(_TIMES.values(), ".3f"),
        "draw, ms": ".2f",
        "memory": ".4f",
        "checkpoint": ".4f",
        "checkpoint, KiB more": ".0f",
    },
    read=_read_single,
    introduction="""\
Forward, loss and backward on {batch} images of {size} px; medians of at least {repeat} interleaved pairs, and of as
many as {seconds:g} s hold ({clock} clock). *Full / plain*: the whole width over the model before it was prepared. *Half
/ twin*: half of each unit over the exported half. The allocator keeps what is freed, as PyTorch's on GPUs, jemalloc and
tcmalloc do; *glibc's heap*: the same as glibc has it, which gives much of it back, so that full-size gradients are
paged in anew at each step. *Floor*: the exported half whose gradients are copied, as they come, into zeros of the full
size, and no more, over the exported half: what anything pays that leaves parameters whole; *half / floor*: half of each
unit over that. *Trainer*: the same inside `Trainer.fit`, from a batch's
start to the end of its backward pass (wall clock). Parameters and gradients keep their full size at any width, so at
half width SGD with momentum (*optimizer*) and the all-reduce of the gradients between two gloo processes (*all-reduce*)
take what they take for the whole model: given over those of the exported half. *Draw*: to sample and set a choice of
every unit. *Memory*: the prepared model over the plain one, tensors and Python objects. *Checkpoint*: ours over the
plain one.""",
)
