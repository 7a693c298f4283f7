"""What a training step costs beyond its passes: time and memory, as ratios to static models of its widths in one run.

A sandwich step (the widest subnet, the narrowest, random ones, and what the narrow ones learn from the widest) is
compared with the sum of the same passes, losses and backward passes on an exported model for each width. Steps at a
single width are compared with the original and with the exported half. The inputs are the same; batch norms train; no
optimizer steps in it but where that is measured. In a sandwich the little that a Trainer does in a step, to call it and
its backward pass, stands in place of one.

Times are those of pairs that take turns in one process, after two steps that warm up, with gradients set to None in
between as Lightning does. glibc's heap keeps what is freed, as jemalloc, tcmalloc and PyTorch's allocator on GPUs do:
else it returns large blocks to the system at random, and a step is as long as it takes to get them back. Memory is what
a step's peak adds to a process that holds the gradients already. In the sum each model's parameters have a single
gradient; ours get one from each pass, which are added up before they reach the parameter. With memory="fast" they are
there beside activations. They are no more than what zero_grad() had given back, so a second ratio, which is the one
that is judged, has the gradients on both sides.

    python benchmarks/step.py                                     # all, about an hour
    python benchmarks/step.py --only single --models resnet50 --repeat 3
    python benchmarks/step.py --threads 1 --batch 32 --check
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _results  # noqa: E402
from benchmarks._jobs import environment, row_of  # noqa: E402
from benchmarks._step_tables import SANDWICH, SINGLE, Ratios, Table  # noqa: E402

__all__ = ["main"]

TABLES = {table.name: table for table in (SANDWICH, SINGLE)}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="step.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", choices=TABLES, help="one of the two parts")
    add("--models", nargs="+", metavar="NAME", help="of torchvision; by default each part's own")
    add("--size", type=int, default=128, help="of the input images (%(default)s)")
    batches = ", ".join(f"{table.batch} for {table.name}" for table in TABLES.values())
    add("--batch", type=int, help=f"images in a batch ({batches})")
    add("--n-random", type=int, default=2, help="random passes of the sandwich (%(default)s)")
    add("--seed", type=int, default=1, help="of the widths (%(default)s)")
    add("--repeat", type=int, default=5, help="pairs of each measurement at least (%(default)s)")
    add("--seconds", type=float, default=20, metavar="S", help="and as many more as this holds (%(default)g s)")
    add("--threads", type=int, default=2, help="torch threads of each process (%(default)s)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: computing alone, for a machine that others use")
    add("--timeout", type=float, default=900, metavar="S", help="limit of one measurement (%(default)g s)")
    add("--check", action="store_true", help="return 1 if a ratio is beyond what is good, or is missing")
    add("--results", type=Path, default=_results.DEFAULT, help="file of the tables (%(default)s)")
    arguments = parser.parse_args(argv)
    batch = 1 if arguments.batch is None else arguments.batch
    if min(arguments.size, batch, arguments.repeat, arguments.threads) < 1 or arguments.timeout <= 0:
        parser.error("--size, --batch, --repeat and --threads must be at least 1, and --timeout positive")
    return arguments


def once(measurement: str, model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a process of its own; with ``error`` if it failed."""

    def command(result: Path) -> list[str | Path]:
        options = [f"--{name}={getattr(arguments, name)}" for name in ("size", "batch", "seed", "repeat", "seconds")]
        options.append(f"--n-random={arguments.n_random}")
        return [sys.executable, "-m", "benchmarks._step", measurement, model, result, *options]

    variables = environment(arguments.threads)
    if measurement.startswith("peak"):
        variables["MALLOC_MMAP_THRESHOLD_"] = "65536"  # or the heap would keep some of what is freed, at random
    elif not measurement.endswith("-returned"):
        variables |= {"MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_MMAP_MAX_": "0"}
    return row_of(command, variables, arguments.timeout)


def measure(table: Table, model: str, arguments: argparse.Namespace) -> Ratios:
    """The values of a model's row; None for what couldn't be measured."""
    found: dict[str, dict[str, Any]] = {}
    for measurement in table.measurements:
        row = once(measurement, model, arguments)
        if "error" in row:
            print(f"  {measurement}: {row['error']}", flush=True)
        else:
            found[measurement] = row
    return table.read(found, arguments.clock)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write the tables; with ``--check`` returns 1 if a value isn't good."""
    arguments = parse(argv)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    where = f"{_results.machine(arguments.threads)} Load at the start: {load}."
    failed: list[str] = []
    for table in TABLES.values() if arguments.only is None else [TABLES[arguments.only]]:
        print(table.title, flush=True)
        own = argparse.Namespace(**{**vars(arguments), "batch": arguments.batch or table.batch})
        about = table.introduction.format(**vars(own))
        rows: list[list[str]] = []
        for model in arguments.models or table.models:
            ratios = measure(table, model, own)
            rows.append(table.row(model, ratios))
            print("  " + ", ".join([model, *map(" ".join, zip(table.columns, rows[-1][1:], strict=True))]), flush=True)
            failed += table.misses(model, ratios)
            shown = _results.table(("model", *table.columns), rows)
            text = f"## {table.title}\n\n{where}\n\n{about}\n\n{shown}"
            _results.write_section(arguments.results, f"step-{table.name}", text)
    print("\n".join(failed) if failed else "all ratios are good")
    return 1 if failed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
