"""What ``prune.py`` says about its rows: paired differences, their intervals, and the tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from benchmarks import _results
from benchmarks._prune_task import NETWORKS

__all__ = ["Comparison", "comparisons", "misses", "section", "summary"]

NAMES = {
    "l1": "magnitude, L1",
    "l2": "magnitude, L2",
    "bn_scale": "batch-norm scale",
    "taylor": "Taylor",
    "random": "random",
}
"""Criterion → what the tables call it."""

SLOWER = 1.1
"""What one model may take of the other's time and still count as equally fast: what the clock varies by."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A criterion at a target: the figures of all seeds, one of each side for each seed.

    Attributes:
        network: One of :data:`~benchmarks._prune_task.NETWORKS`.
        criterion: One of :data:`NAMES`.
        target: Share of the multiply-adds.
        base: Accuracy of the networks that were pruned.
        full: Multiply-adds of these.
        ours: What came out on our side; keys as in the rows.
        theirs: The same of Torch-Pruning.
    """

    network: str
    criterion: str
    target: float
    base: tuple[float, ...]
    full: int
    ours: tuple[dict[str, float], ...]
    theirs: tuple[dict[str, float], ...]

    def mean(self, side: str, key: str) -> float:
        """Of one side, over the seeds."""
        return statistics.mean(row[key] for row in getattr(self, side))

    def differences(self, key: str = "after") -> list[float]:
        """Ours less theirs, seed by seed."""
        return [own[key] - other[key] for own, other in zip(self.ours, self.theirs, strict=True)]

    def interval(self, key: str = "after") -> tuple[float, float]:
        """The 95 % interval of the mean difference (Student's t of the paired seeds)."""
        return _interval(self.differences(key))

    @property
    def latency(self) -> float:
        """How much of their time ours takes: geometric mean over the seeds."""
        return statistics.geometric_mean(
            own["ms"] / other["ms"] for own, other in zip(self.ours, self.theirs, strict=True)
        )


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean + half


def comparisons(
    rows: dict[str, list[dict[str, Any]]], criteria: Sequence[str], targets: Sequence[float]
) -> list[Comparison]:
    """All that the rows allow, by network, criterion and target.

    Args:
        rows: Network → a row for each seed.
        criteria: Those of each row that are asked for.
        targets: Those of each row, in order.
    """
    found = []
    for network, own in rows.items():
        base, full = tuple(row["base"]["accuracy"] for row in own), own[0]["base"]["macs"]
        for criterion in criteria:
            both = [row["criteria"][criterion] for row in own]
            for number, target in enumerate(targets):
                ours, theirs = (tuple(sides[side][number] for sides in both) for side in ("ours", "theirs"))
                found.append(Comparison(network, criterion, target, base, full, ours, theirs))
    return found


def misses(found: Sequence[Comparison]) -> Iterator[str]:
    """Where ours is less accurate than chance explains, or slower than the clock varies by."""
    for one in found:
        what = f"{one.network}, {one.criterion} at {one.target:g}"
        low, high = one.interval()
        if high < 0:
            yield f"{what}: {_points(low)} to {_points(high)} points of Torch-Pruning's accuracy"
        if one.latency > SLOWER:
            yield f"{what}: the model takes {one.latency:.2f} of the time of Torch-Pruning's"


_HEAD = ("criterion", "MACs left", "before, ours", "theirs", "after, ours", "theirs", "difference, 95 %", "time")


def summary(found: Sequence[Comparison]) -> str:
    """A line for each criterion and target of one network."""
    return _results.table(_HEAD, (_line(one) for one in found))


def _line(one: Comparison) -> list[str]:
    low, high = one.interval()
    sides = [f"{100 * one.mean(side, key):.1f} %" for key in ("before", "after") for side in ("ours", "theirs")]
    mean = statistics.mean(one.differences())
    return [
        NAMES[one.criterion],
        f"{one.target:g}",
        *sides,
        f"{_points(mean)} ({_points(low)} … {_points(high)})",
        f"{one.latency:.2f}",
    ]


def by_criterion(found: Sequence[Comparison]) -> str:
    """A line for each criterion, over all networks and targets: of so many intervals one lies off by chance."""
    rows = []
    for criterion in dict.fromkeys(one.criterion for one in found):
        each = [one.differences() for one in found if one.criterion == criterion]
        seeds = [statistics.mean(differences) for differences in zip(*each, strict=True)]
        low, high = _interval(seeds)
        told = f"{_points(statistics.mean(seeds))} ({_points(low)} … {_points(high)})"
        rows.append([NAMES[criterion], *map(_points, seeds), told])
    count = len(found[0].ours)
    return _results.table(("criterion", *(f"seed {number}" for number in range(count)), "difference, 95 %"), rows)


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


_COSTS = ("criterion", "MACs left", "MACs, ours", "theirs", "parameters, ours", "theirs", "ms, ours", "theirs")


def _costs(found: Sequence[Comparison]) -> str:
    rows = []
    for one in found:
        cells = [f"{one.mean(side, 'macs') / one.full:.3f}" for side in ("ours", "theirs")]
        cells += [f"{one.mean(side, 'parameters') / 1e3:,.0f} k" for side in ("ours", "theirs")]
        cells += [f"{one.mean(side, 'ms'):.2f}" for side in ("ours", "theirs")]
        rows.append([NAMES[one.criterion], f"{one.target:g}", *cells])
    return _results.table(_COSTS, rows)


def _every_seed(found: Sequence[Comparison], seeds: Sequence[int]) -> str:
    head = ["criterion", "MACs left", *(f"seed {seed}" for seed in seeds)]
    rows = []
    for one in found:
        pairs = zip(one.ours, one.theirs, strict=True)
        cells = [f"{100 * own['after']:.2f} / {100 * other['after']:.2f}" for own, other in pairs]
        rows.append([NAMES[one.criterion], f"{one.target:g}", *cells])
    return _results.table(head, rows)


_INTRODUCTION = """\
The same trained networks, pruned by this library and by Torch-Pruning {version} to the same share of their
multiply-adds, and trained on with the same optimizer, rates, batches and number of steps. Ours: one shot, with
`ChannelPruning`'s defaults. Theirs: global pruning with its defaults, {way}.
*Before* and *after*: mean accuracy on the held-out images before and after training on, over the seeds
{seeds}. *Difference*: ours less theirs after it, in points, paired by seed, with Student's 95 % interval. *Time*: how
much of their model's time ours takes on a batch of 64 on the CPU, both run by turns in one process (median of 30)."""


_WAYS = {
    False: "in one shot as well, at the ratio that\nleaves most within the target",
    True: "in 200 small steps, which score\nanew what is left, until the model is as cheap",
}


def section(found: Sequence[Comparison], seeds: Sequence[int], version: str, steps: bool) -> str:
    """The text for RESULTS.md."""
    listed = ", ".join(map(str, seeds))
    head = _INTRODUCTION.format(version=version, seeds=listed, way=_WAYS[steps])
    title = "Pruning, against Torch-Pruning" + " in steps" * steps
    parts = [f"## {title}", _results.machine(1, {"torch-pruning": version}), head]
    for network in dict.fromkeys(one.network for one in found):
        own = [one for one in found if one.network == network]
        base = ", ".join(f"{accuracy:.2%}" for accuracy in own[0].base)
        before = (
            f"Before pruning the networks reach {base}, with {own[0].full / 1e6:.2f} million multiply-adds an image."
        )
        parts += [
            f"### {title}: {NETWORKS[network].title}",
            before,
            summary(own),
            "What is left of the network, as means over the seeds:",
            _costs(own),
        ]
        parts += ["After training on, ours / theirs, every seed, in %:", _every_seed(own, seeds)]
    parts += [
        f"### {title}: By criterion",
        "The difference, as the mean over networks and targets:",
        by_criterion(found),
    ]
    worse = list(misses(found))
    parts.append("\n".join(f"- {miss}" for miss in worse) if worse else "Nowhere is ours behind.")
    return "\n\n".join(parts)
