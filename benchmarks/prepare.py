"""How long it takes to prepare a model, as ratios to Torch-Pruning and NVIDIA ModelOpt in one run.

Every single measurement has a process of its own, and the tools take turns, so that what else the machine does hits all
alike. Compared are: our tracing and solving; our whole preparation, which makes the modules dynamic and proves them as
well; building the graph and constructing the pruner in Torch-Pruning; converting the model in ModelOpt. Medians go to
RESULTS.md, between the markers of their section. The peers are installed into environments of their own.

    python benchmarks/prepare.py                                 # all, some twenty minutes
    python benchmarks/prepare.py --only resnet50 --repeat 3      # one model
    python benchmarks/prepare.py --part depth --part width       # how it grows
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _peers, _results  # noqa: E402
from benchmarks._jobs import environment, row_of  # noqa: E402

__all__ = ["main"]


@dataclass(frozen=True, slots=True)
class Case:
    """A model that is measured.

    Attributes:
        name: Of torchvision.
        size: Of its input.
        options: Arguments of the model.
        title: In the table.
    """

    name: str
    size: int = 224
    options: dict[str, Any] = field(default_factory=dict)
    title: str = ""

    def __str__(self) -> str:
        return self.title or self.name


PARTS: dict[str, tuple[Case, ...]] = {
    "peers": (
        Case("resnet50"),
        Case("mobilenet_v2"),
        Case("densenet201"),
        Case("convnext_tiny"),
        Case("vit_b_16", 128, {"image_size": 128}, "vit_b_16 (128 px)"),
        Case("efficientnet_b4"),
        Case("swin_t"),
    ),
    "depth": tuple(Case(f"resnet{n}") for n in (18, 34, 50, 101, 152)),
    "width": tuple(Case("resnet50", 224, {"width_per_group": n}, f"resnet50, width {n}") for n in (32, 64, 128, 256)),
}
"""What is compared, and how it grows with a model's depth and width."""

TRACED, PREPARED, MEMORY = 1.0, 4.5, 1.0
"""Largest ratios that are good: to Torch-Pruning's time, and to twice the model plus one forward's activations."""

PREPARED_OF = {"densenet201": 1.0}

Times = dict[str, float | None]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="prepare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--part", action="append", choices=PARTS, help="which table; may be given several times; default: all")
    add("--only", default="*", metavar="PATTERN", help="models that match (resnet*)")
    add("--repeat", type=int, default=5, help="measurements of each, an odd number is best (5)")
    add("--threads", type=int, default=1, help="torch threads of each process (1)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: computing alone, for a machine that others use")
    add("--timeout", type=float, default=300, metavar="S", help="limit of one measurement (300 s)")
    add("--no-peers", action="store_true", help="only this library; nothing is installed")
    add("--check", action="store_true", help="return 1 if a ratio is beyond what is good")
    add("--results", type=Path, default=_results.DEFAULT, help="file of the tables (%(default)s)")
    add("--environments", type=Path, default=_peers.DEFAULT, help="folder of the peers' environments (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.repeat < 1 or arguments.threads < 1 or arguments.timeout <= 0:
        parser.error("--repeat and --threads must be at least 1, and --timeout positive")
    return arguments


def once(python: Path, step: str, case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own; with ``error`` if it failed."""

    def command(result: Path) -> list[str | Path]:
        line = [python, "-m", "benchmarks._time", step, case.name, str(case.size), result]
        return [*line, "--options", json.dumps(case.options)]

    return row_of(command, environment(arguments.threads), arguments.timeout)


def measure(case: Case, pythons: dict[str, Path], arguments: argparse.Namespace) -> Times:
    """Medians of a model: seconds of each step and of a forward pass, and the ratio of memory."""
    found: dict[str, list[float]] = {step: [] for step in [*pythons, "forward"]}
    for turn in range(arguments.repeat):
        for step in _rotated(list(pythons), turn):
            row = once(pythons[step], step, case, arguments)
            if "error" in row:
                print(f"  {step}: {row['error']}", flush=True)
                found[step] = []
                pythons = {name: python for name, python in pythons.items() if name != step}
                continue
            found[step].append(row["took"][arguments.clock])
            found["forward"].append(row["forward"][arguments.clock])
    times: Times = {step: statistics.median(values) if values else None for step, values in found.items()}
    row = once(Path(sys.executable), "memory", case, arguments)
    known = "error" not in row and row["extra"] is not None
    times["memory"] = (row["model"] + row["extra"]) / (2 * row["model"] + row["activations"]) if known else None
    return times


def _rotated(steps: list[str], turn: int) -> list[str]:
    """Who comes first changes from turn to turn."""
    turn %= len(steps)
    return steps[turn:] + steps[:turn]


def misses(case: Case, times: Times) -> Iterator[str]:
    """What of a model is beyond what is good; only for what is compared with Torch-Pruning."""
    for step, most in (("traced", TRACED), ("prepared", PREPARED_OF.get(case.name, PREPARED))):
        ratio = _ratio(times, step)
        if ratio is not None and ratio > most:
            yield f"{case}: {step} in {ratio:.2f} of Torch-Pruning's time, not {most:g}"
    memory = times["memory"]
    if memory is not None and memory > MEMORY:
        yield f"{case}: {memory:.2f} of twice the model and one forward's activations, not {MEMORY:g}"


def _ratio(times: Times, step: str) -> float | None:
    own, theirs = times.get(step), times.get("torch-pruning")
    return own / theirs if own is not None and theirs is not None else None


def rows(measured: dict[str, Times]) -> Iterator[list[str]]:
    """Lines of a table."""
    for title, times in measured.items():
        cells = [title]
        for step in ("forward", "traced", "prepared", "torch-pruning", "modelopt"):
            cells.append(_shown(times.get(step), "{:.3f} s"))
        cells += [_shown(_ratio(times, step), "{:.2f}") for step in ("traced", "prepared", "modelopt")]
        yield [*cells, _shown(times["memory"], "{:.2f}")]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


_HEAD = ("model", "forward", "traced", "prepared", "Torch-Pruning", "ModelOpt")
_RATIOS = ("traced / TP", "prepared / TP", "ModelOpt / TP", "memory")

_INTRODUCTION = """\
Seconds ({clock}) are medians of {repeat} interleaved processes on one input image. *Traced*: traced and solved, so
that the units are known. *Prepared*: all of it, with the default proof. *Torch-Pruning* (TP): graph and pruner.
*ModelOpt*: conversion into its search space. *Memory*: model and peak of the preparation, as a share of twice the model
and the activations that one forward pass keeps for its backward pass."""

_TITLES = {"peers": "Against the peers", "depth": "Growth with depth", "width": "Growth with width"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the tables; with ``--check`` returns 1 if a ratio isn't good."""
    arguments = parse(argv)
    parts = {
        part: [case for case in PARTS[part] if fnmatch.fnmatch(case.name, arguments.only)]
        for part in arguments.part or PARTS
    }
    if not any(parts.values()):
        raise SystemExit(f"no model matches {arguments.only!r}")
    pythons = {"traced": Path(sys.executable), "prepared": Path(sys.executable)}
    versions = {}
    for name in () if arguments.no_peers else ("torch-pruning", "modelopt"):
        peer = _peers.PEERS[name]
        pythons[name] = _peers.python_of(peer, arguments.environments)
        versions[peer.package] = peer.version
    about = _INTRODUCTION.format(repeat=arguments.repeat, clock=f"{arguments.clock} clock")
    where = f"{_results.machine(arguments.threads, versions)} Load at the start: {_load()}."
    failed = []
    for part, cases in parts.items():
        measured: dict[str, Times] = {}
        for case in cases:
            print(f"{part}: {case}", flush=True)
            times = measured[str(case)] = measure(case, pythons, arguments)
            print("  " + ", ".join(f"{step} {_shown(value, '{:.3f}')}" for step, value in times.items()), flush=True)
            failed += list(misses(case, times)) if part == "peers" else []
        if cases:
            text = f"## Preparation: {_TITLES[part].lower()}\n\n{where}\n\n{about}\n\n"
            _results.write_section(
                arguments.results, f"prepare {part}", text + _results.table(_HEAD + _RATIOS, rows(measured))
            )
    print("\n".join(failed) if failed else "all ratios are good")
    return 1 if failed and arguments.check else 0


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


if __name__ == "__main__":
    sys.exit(main())
