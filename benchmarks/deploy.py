"""Latency of exported subnets of half the MACs, by divisor: in eager mode, with torch.compile and in onnxruntime.

A process for each model prunes it to the same share of its MACs with each divisor, and writes the subnets; then one
for each runtime and batch runs them in turns with the whole model. Rows go to a file of JSON lines as they come, and a
second run measures what is missing there. The tables go to RESULTS.md, between the markers of their section.

    python benchmarks/deploy.py                               # resnet50 and mobilenet_v2, about ten minutes
    python benchmarks/deploy.py --check                       # returns 1 if a subnet isn't as fast as it should be
    python benchmarks/deploy.py --models convnext_tiny vit_b_16 --json more.jsonl --results more.md
    python benchmarks/deploy.py --runtimes cuda cuda-compile --batches 1 16 64
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _results  # noqa: E402
from benchmarks._deploy import CLOCKS, RUNTIMES  # noqa: E402
from benchmarks._deploy_tables import Measured, misses, section  # noqa: E402
from benchmarks._jobs import Store, environment, row_of  # noqa: E402

__all__ = ["main"]

_BUILD = "build"
_PASSED_ON = ("divisors", "runtimes", "size", "seed", "repeat", "target", "sample", "clock")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="deploy.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", default=["resnet50", "mobilenet_v2"], metavar="NAME", help="resnet50 mobilenet_v2")
    add("--runtimes", nargs="+", choices=RUNTIMES, default=["eager", "compile", "onnxruntime"], help="those of the CPU")
    add("--batches", type=int, nargs="+", default=[1, 16], metavar="N", help="1 16")
    add("--divisors", type=int, nargs="+", default=[1, 8, 16], metavar="N", help="1 8 16")
    add("--target", type=float, default=0.5, help="share of the MACs (%(default)s)")
    add("--size", type=int, default=224, help="of the input images (%(default)s)")
    add("--seed", type=int, default=0, help="of weights and images (%(default)s)")
    add("--repeat", type=int, default=11, help="turns of each measurement, an odd number is best (%(default)s)")
    add("--sample", type=float, default=0.2, metavar="S", help="seconds for each subnet in a turn (%(default)s)")
    add("--threads", type=int, default=2, help="threads of each process (%(default)s)")
    add("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a machine that others use (wall)")
    add("--timeout", type=float, default=900, metavar="S", help="limit of each process (%(default)g s)")
    add("--check", action="store_true", help="return 1 if a subnet isn't as fast as it should be, or one failed")
    add("--json", type=Path, default=ROOT / "benchmarks/raw/deploy.jsonl", help="file of the rows (%(default)s)")
    add("--results", type=Path, default=_results.DEFAULT, help="file of the tables (%(default)s)")
    arguments = parser.parse_args(argv)
    whole = (arguments.size, arguments.repeat, arguments.threads, *arguments.batches, *arguments.divisors)
    if min(whole) < 1 or not 0 < arguments.target < 1 or min(arguments.timeout, arguments.sample) <= 0:
        parser.error("--target must lie between 0 and 1, and the other numbers must be positive")
    for name in ("models", "runtimes", "batches", "divisors"):
        setattr(arguments, name, list(dict.fromkeys(getattr(arguments, name))))
    return arguments


def process(part: str, model: str, folder: Path, arguments: argparse.Namespace, *more: str) -> dict[str, Any]:
    """One part in a process of its own; with ``error`` if it failed."""

    def command(result: Path) -> list[str | Path]:
        line: list[str | Path] = [sys.executable, "-m", "benchmarks._deploy", part, model, folder, result, *more]
        for name in _PASSED_ON:
            value = getattr(arguments, name)
            line += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        return line

    return row_of(command, environment(arguments.threads), arguments.timeout)


def tool_of(arguments: argparse.Namespace) -> str:
    """Rows of other subnets, or of other conditions, are kept apart."""
    divisors = "/".join(map(str, arguments.divisors))
    return (
        f"deploy, divisors {divisors}, {arguments.target:g} of the MACs, {arguments.size}², seed {arguments.seed}, "
        f"{arguments.threads} threads" + ", cpu clock" * (arguments.clock == "cpu")
    )


def measure(model: str, arguments: argparse.Namespace, store: Store) -> None:
    """Measure of one model what the file has no good row of."""
    tool = tool_of(arguments)
    asked = list(itertools.product(arguments.runtimes, arguments.batches))
    todo = [key for key in asked if "seconds" not in store.rows.get((tool, _name(model, *key)), {})]
    if not todo:
        return
    with tempfile.TemporaryDirectory() as folder:
        built = process(_BUILD, model, Path(folder), arguments)
        if "error" not in built:
            store.add({"tool": tool, "model": model, **built})
        for runtime, batch in todo:
            row = built
            if "error" not in built:
                row = process(runtime, model, Path(folder), arguments, "--batch", str(batch))
            store.add({"tool": tool, "model": _name(model, runtime, batch), **row})
            print(f"{_name(model, runtime, batch)}: {row.get('error', 'measured')}", flush=True)


def _name(model: str, runtime: str, batch: int) -> str:
    return f"{model}, {runtime}, batch {batch}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the tables; with ``--check`` returns 1 if something isn't good."""
    arguments = parse(argv)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    store = Store(arguments.json)
    for model in arguments.models:
        measure(model, arguments, store)
    tool = tool_of(arguments)
    found: list[Measured] = []
    failed: list[str] = []
    for key in itertools.product(arguments.models, arguments.runtimes, arguments.batches):
        row = store.rows[tool, _name(*key)]
        if "seconds" in row:
            found.append(Measured(*key, row["seconds"]))
        else:
            failed.append(f"{_name(*key)}: {row['error']}")
    if found:
        left = {
            model: row["left"] for model in arguments.models if "left" in (row := store.rows.get((tool, model), {}))
        }
        machine = _results.machine(arguments.threads, _versions(arguments))
        where = f"{machine} Load at the start: {load}; {arguments.clock} clock."
        text = section(found, left, arguments.divisors, arguments.target, where)
        _results.write_section(arguments.results, "deploy", text)
    failed += misses(found, arguments.divisors)
    print("\n".join(failed) if failed else "all subnets are as fast as they should be")
    return 1 if failed and arguments.check else 0


def _versions(arguments: argparse.Namespace) -> dict[str, str]:
    """Versions of what only some runs use."""
    versions = {}
    if "onnxruntime" in arguments.runtimes:
        versions["onnxruntime"] = _results.version_of("onnxruntime")
    if any(runtime.startswith("cuda") for runtime in arguments.runtimes):
        import torch

        versions["GPU"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return versions


if __name__ == "__main__":
    sys.exit(main())
