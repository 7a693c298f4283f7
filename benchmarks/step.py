"""What a training step costs beyond its passes: time and memory, as ratios to static models of its widths in one run.

A sandwich step (the widest subnet, the narrowest, random ones, and what the narrow ones learn from the widest) is
compared with the sum of the same passes, losses and backward passes on an exported model for each width. The inputs are
the same; batch norms train; no optimizer steps in it. In place of a Trainer, whose own work would hide ours, stands
the little that it does in a step: it calls the step and its backward pass. Plain steps at a single width, with SGD, are
compared with the original and with the exported half.

Times are those of pairs that take turns in one process, after two steps that warm up, with gradients set to None in
between as Lightning does. Memory is what a step's peak adds to a process that holds the gradients already. The sum's
parameters are separate tensors, each with a single gradient; ours get a gradient from each pass, which autograd adds up
before it reaches the parameter. With memory="fast" these sums, one for each parameter, are there beside activations.
They are no more than what zero_grad() had given back, so a second ratio has the gradients on both sides.

    python benchmarks/step.py                                     # all, some twenty minutes
    python benchmarks/step.py --models resnet50 --repeat 3        # one model
    python benchmarks/step.py --threads 2 --batch 32 --check
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _results  # noqa: E402
from benchmarks._jobs import environment, row_of  # noqa: E402

__all__ = ["main"]

MODELS = ("resnet50", "mobilenet_v2", "convnext_tiny", "densenet121")

BUDGETS = {"fast time": 1.05, "fast memory": 1.05, "lean time": 1.05, "lean memory": 1.1}
"""Largest ratios that are good: to the sum of the passes, and for the memory of ``"lean"`` to the widest pass alone."""

_TIMES = {
    "fast": "fast time",
    "lean": "lean time",
    "full": "full / plain",
    "half": "half / twin",
    "draw": "draw / step",
}
_PEAKS = ("peak-fast", "peak-twins", "peak-lean", "peak-pass")

Ratios = dict[str, float | None]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="step.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=list(MODELS), metavar="NAME", help="of torchvision (%(default)s)")
    add("--size", type=int, default=128, help="of the input images (%(default)s)")
    add("--batch", type=int, default=8, help="images in a batch (%(default)s)")
    add("--n-random", type=int, default=2, help="random passes of the sandwich (%(default)s)")
    add("--seed", type=int, default=1, help="of the widths (%(default)s)")
    add("--repeat", type=int, default=7, help="pairs of each measurement, an odd number is best (%(default)s)")
    add("--threads", type=int, default=1, help="torch threads of each process (%(default)s)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: computing alone, for a machine that others use")
    add("--timeout", type=float, default=900, metavar="S", help="limit of one measurement (%(default)g s)")
    add("--check", action="store_true", help="return 1 if a ratio is beyond what is good, or is missing")
    add("--results", type=Path, default=_results.DEFAULT, help="file of the table (%(default)s)")
    arguments = parser.parse_args(argv)
    if min(arguments.size, arguments.batch, arguments.repeat, arguments.threads) < 1 or arguments.timeout <= 0:
        parser.error("--size, --batch, --repeat and --threads must be at least 1, and --timeout positive")
    return arguments


def once(measurement: str, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own; with ``error`` if it failed."""

    def command(result: Path) -> list[str | Path]:
        options = [f"--{name}={getattr(arguments, name)}" for name in ("size", "batch", "seed", "repeat")]
        options.append(f"--n-random={arguments.n_random}")
        return [sys.executable, "-m", "benchmarks._step", measurement, model, result, *options]

    variables = environment(arguments.threads)
    if measurement in _PEAKS:
        variables["MALLOC_MMAP_THRESHOLD_"] = "65536"  # or the heap would keep some of what is freed, at random
    return row_of(command, variables, arguments.timeout)


def measure(model: str, arguments: argparse.Namespace) -> tuple[list[float], Ratios]:
    """The widths of the passes of a model's step, and its ratios; None for what couldn't be measured."""
    found: dict[str, dict[str, Any]] = {}
    for measurement in (*_TIMES, *_PEAKS):
        row = once(measurement, model, arguments)
        if "error" in row:
            print(f"  {measurement}: {row['error']}", flush=True)
        else:
            found[measurement] = row
    ratios: Ratios = {}
    for measurement, title in _TIMES.items():
        pairs = found.get(measurement, {}).get("pairs", {}).get(arguments.clock)
        # of each pair, since what else the machine does comes and goes more slowly than they take turns
        ratios[title] = statistics.median(own / theirs for own, theirs in pairs) if pairs else None
    peaks = {name: found.get(name, {}).get("peak") for name in _PEAKS}
    ratios["fast memory"] = _ratio(peaks["peak-fast"], peaks["peak-twins"])
    ratios["lean memory"] = _ratio(peaks["peak-lean"], peaks["peak-pass"])
    fast, twins = found.get("peak-fast", {}), peaks["peak-twins"]
    whole = None if twins is None or not fast else twins + fast["gradients"]
    ratios["with gradients"] = _ratio(fast.get("from_none"), whole)
    return next((row["widths"] for row in found.values() if "widths" in row), []), ratios


def _ratio(own: float | None, theirs: float | None) -> float | None:
    return own / theirs if own is not None and theirs else None


def misses(model: str, ratios: Ratios) -> Iterator[str]:
    """What of a model is beyond what is good, or couldn't be measured."""
    for name, most in BUDGETS.items():
        ratio = ratios.get(name)
        if ratio is None:
            yield f"{model}: {name} couldn't be measured"
        elif ratio > most:
            yield f"{model}: {name} is {ratio:.3f} of the plain one's, not {most:g}"


_HEAD = ("fast time", "fast memory", "with gradients", "lean time", "lean memory", "full / plain", "half / twin")

_INTRODUCTION = """\
One step on {batch} images of {size} px, as ratios; medians of {repeat} interleaved pairs ({clock} clock). *Fast*
and *lean* are a sandwich's step with that `memory`: *time* over the sum of the same passes, losses and backward passes
on exported models; *fast memory* over the sum's peak, gradients allocated before, and *with gradients* the same with
one set of gradients on both sides, as where `zero_grad()` sets them to None; *lean memory* over the widest pass alone.
*Full / plain* and *half / twin*: a training step at one width, SGD included, over the original's and over the exported
half's. *Draw / step*: to draw and set a width, as a share of a training step."""


def rows(done: dict[str, tuple[list[float], Ratios]]) -> Iterator[list[str]]:
    """Lines of the table."""
    for model, (widths, ratios) in done.items():
        draw = ratios.get("draw / step")
        cells = ["-" if (ratio := ratios.get(name)) is None else f"{ratio:.3f}" for name in _HEAD]
        yield [model, ", ".join(f"{width:.2g}" for width in widths), *cells, "-" if draw is None else f"{draw:.2%}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the table; with ``--check`` returns 1 if a ratio isn't good."""
    arguments = parse(argv)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    where = f"{_results.machine(arguments.threads)} Load at the start: {load}."
    about = _INTRODUCTION.format(**vars(arguments))
    done: dict[str, tuple[list[float], Ratios]] = {}
    failed: list[str] = []
    for model in arguments.models:
        print(model, flush=True)
        done[model] = widths, ratios = measure(model, arguments)
        shown = ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items() if ratio is not None)
        print(f"  widths {', '.join(f'{width:.2g}' for width in widths)}; {shown}", flush=True)
        failed += misses(model, ratios)
        table = _results.table(("model", "widths", *_HEAD, "draw / step"), rows(done))
        _results.write_section(arguments.results, "step", f"## Training steps\n\n{where}\n\n{about}\n\n{table}")
    print("\n".join(failed) if failed else "all ratios are good")
    return 1 if failed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
