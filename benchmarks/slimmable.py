"""What training many widths at once costs: a sandwich-trained network against networks that are trained alone.

scikit-learn's digits, one recipe (conf/experiment/digits_slimmable.yaml), several seeds. For each seed one network is
trained at all widths together, and one plain network at each width by itself. Every training is a process of its own;
rows go to a file of JSON lines as they come, and a second run trains what is missing there. The tables go to
RESULTS.md, between the markers of their section, and the figures for the documentation's picture to a file beside it.

    python benchmarks/slimmable.py --jobs 2                       # all, some ten minutes
    python benchmarks/slimmable.py --check                        # returns 1 if a promise isn't kept
    python benchmarks/slimmable.py --epochs 1 --seeds 0 --results try.md --picture try.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _results  # noqa: E402
from benchmarks._jobs import Store, environment, run_all  # noqa: E402

__all__ = ["Width", "by_width", "main", "misses", "summary"]

WIDTHS = (1.0, 0.75, 0.5, 0.25)
"""Those of the recipe."""

LEAST = {1.0: 0.985, 0.75: 0.985, 0.5: 0.98, 0.25: 0.97}
"""What the sandwich's mean accuracy must reach."""

BEHIND, AIM = 0.01, 0.005
"""How far the sandwich's mean may be below that of networks trained alone, and how far it should be at most."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="slimmable.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--epochs", type=int, default=40, help="of every training (40)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED", help="0 1 2 3 4")
    add("--widths", type=float, nargs="+", choices=WIDTHS, default=list(WIDTHS), help="to compare; all by default")
    add("--check", action="store_true", help="return 1 if a promise isn't kept")
    add("--json", type=Path, default=ROOT / "benchmarks/raw/slimmable.jsonl", help="file of the rows (%(default)s)")
    add("--results", type=Path, default=_results.DEFAULT, help="file of the tables (%(default)s)")
    add("--picture", type=Path, default=ROOT / "docs/pictures/slimmable.json", help="for the picture (%(default)s)")
    add("--jobs", type=int, default=1, help="processes at a time (1)")
    add("--timeout", type=float, default=900, metavar="S", help="limit of each training (900 s)")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1 or arguments.jobs < 1 or arguments.timeout <= 0:
        parser.error("--epochs and --jobs must be at least 1, and --timeout positive")
    arguments.seeds, arguments.widths = list(dict.fromkeys(arguments.seeds)), sorted(set(arguments.widths))[::-1]
    return arguments


# --- trainings
# -----------------------------------------------------------------------------------------------------------------


def name_of(seed: int, width: float | None) -> str:
    """A training's name in the file of the rows; no width stands for the sandwich."""
    return f"{'sandwich' if width is None else f'alone at {width:g}'}, seed {seed}"


def once(options: Sequence[str], timeout: float) -> dict[str, Any]:
    """One training in a process of its own; ``status`` says whether it came to its end."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        command = [sys.executable, "-m", "benchmarks._slimmable", str(result), *options]
        try:
            done = subprocess.run(
                command, env=environment(1), capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return {"status": "failed", "reason": f"took longer than {timeout:g} s"}
        if result.exists():
            return {"status": "ok", **json.loads(result.read_text())}
        last = done.stderr.strip()[-200:]
        return {"status": "failed", "reason": f"the process ended with {done.returncode}: {last}"}


def train_missing(arguments: argparse.Namespace, store: Store) -> list[str]:
    """Run the trainings that the file has no good row of.

    Returns:
        Those that failed.
    """
    tool = tool_of(arguments)
    options: dict[str, list[str]] = {}
    for seed in arguments.seeds:
        common = ["--seed", str(seed), "--epochs", str(arguments.epochs)]
        options[name_of(seed, None)] = common
        options |= {name_of(seed, width): [*common, "--alone", str(width)] for width in arguments.widths}
    todo = [name for name in options if store.rows.get((tool, name), {}).get("status") != "ok"]
    print(f"{len(options)} trainings, {len(options) - len(todo)} done before", flush=True)

    def measure(name: str) -> dict[str, Any]:
        return {"tool": tool, "model": name, **once(options[name], arguments.timeout)}

    failed = []
    for row in run_all(todo, store, measure, arguments.jobs):
        print(f"{row['model']}: {_described(row)}", flush=True)
        failed += [] if row["status"] == "ok" else [row["model"]]
    return failed


def tool_of(arguments: argparse.Namespace) -> str:
    """Rows of other numbers of epochs are kept apart."""
    return f"slimmable, {arguments.epochs} epochs"


def _described(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"FAILED: {row['reason']}"
    reached = ", ".join(f"{entry['accuracy']:.2%} at {entry['width']:g}" for entry in row["widths"])
    return f"{reached} in {row['seconds']:.0f} s"


# --- results
# -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Width:
    """Accuracies at a width, one of each seed.

    Attributes:
        width: Share of the channels.
        flops: Of one image.
        sandwich: Of the network that was trained at all widths.
        alone: Of the networks that were trained at this one.
        recalibrated: Of the same, with batch-norm statistics computed anew.
    """

    width: float
    flops: int
    sandwich: tuple[float, ...]
    alone: tuple[float, ...]
    recalibrated: tuple[float, ...]

    @property
    def ahead(self) -> float:
        """How much better the sandwich is on average."""
        return statistics.mean(self.sandwich) - statistics.mean(self.alone)


def by_width(arguments: argparse.Namespace, store: Store) -> list[Width]:
    """What the file of the rows says about each width."""
    tool, found = tool_of(arguments), []
    for width in arguments.widths:
        both: dict[bool, list[dict[str, Any]]] = {}
        for is_alone in (False, True):
            rows = [store.rows[tool, name_of(seed, width if is_alone else None)] for seed in arguments.seeds]
            both[is_alone] = [entry for row in rows for entry in row["widths"] if entry["width"] == width]
        costs = {entry["flops"] for entries in both.values() for entry in entries}
        if len(costs) != 1:
            raise SystemExit(f"{store.path}: networks of width {width:g} differ in FLOPs: {sorted(costs)}")
        pick = partial(_picked, both)
        found.append(
            Width(width, costs.pop(), pick(False, "accuracy"), pick(True, "accuracy"), pick(True, "recalibrated"))
        )
    return found


def _picked(entries: dict[bool, list[dict[str, Any]]], is_alone: bool, key: str) -> tuple[float, ...]:
    return tuple(entry[key] for entry in entries[is_alone])


def misses(widths: Sequence[Width]) -> Iterator[str]:
    """Promises that aren't kept."""
    for width in widths:
        mean = statistics.mean(width.sandwich)
        if mean < LEAST[width.width] - 1e-9:
            yield f"width {width.width:g}: the sandwich reaches {mean:.2%}, not {LEAST[width.width]:.1%}"
        if width.ahead < -BEHIND - 1e-9:
            yield f"width {width.width:g}: the sandwich is {_points(-width.ahead)} below, more than {_points(BEHIND)}"


def summary(widths: Sequence[Width]) -> str:
    """A line for each width: means and standard deviations."""
    head = ("width", "MFLOPs", "sandwich", "trained alone", "difference")
    lines = [
        [f"{w.width:g}", f"{w.flops / 1e6:.2f}", _spread(w.sandwich), _spread(w.alone), f"{100 * w.ahead:+.2f}"]
        for w in widths
    ]
    return _results.table(head, lines)


def _every_seed(widths: Sequence[Width], seeds: Sequence[int]) -> str:
    """A line for each seed."""
    head = ["seed", *(f"{kind} {w.width:g}" for kind in ("sandwich", "alone") for w in widths)]
    columns = [w.sandwich for w in widths] + [w.alone for w in widths]
    return _results.table(head, ([str(seed), *(f"{c[n]:.2%}" for c in columns)] for n, seed in enumerate(seeds)))


def _spread(values: Sequence[float]) -> str:
    mean = 100 * statistics.mean(values)
    return f"{mean:.2f} ± {100 * statistics.stdev(values):.2f} %" if len(values) > 1 else f"{mean:.2f} %"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count > 1)}"


def _points(share: float) -> str:
    return f"{100 * share:.2f} points"


_INTRODUCTION = """\
Accuracy on the 360 held-out digits ({epochs}, {seeds}): mean and standard deviation over the seeds; one image is 0.28
points. *Sandwich*: one network that is trained at the widths 1, 0.75, 0.5 and 0.25 together; each is recalibrated on
the training images, exported and measured. *Trained alone*: plain networks of each width, freshly initialised, with
the same recipe and the same batches, measured with the statistics that training left. *Difference*: sandwich less
alone, in points. FLOPs are those of one image, two for each multiply-add."""


def section(widths: Sequence[Width], arguments: argparse.Namespace) -> str:
    """The text for RESULTS.md."""
    worst = min(width.ahead for width in widths)
    others = ", ".join(f"{_spread(width.recalibrated)} at {width.width:g}" for width in widths)
    behind = f"At most, the sandwich is {_points(-worst)} below" if worst < 0 else "At no width is the sandwich below"
    remarks = (
        f"{behind}; the aim is {_points(AIM)}, the promise {_points(BEHIND)}.\n\n"
        f"Trained alone and recalibrated as well: {others}."
    )
    return "\n\n".join(
        [
            "## Slimmable: one network for all widths",
            _results.machine(1),
            _INTRODUCTION.format(
                epochs=_counted(arguments.epochs, "epoch"), seeds=_counted(len(arguments.seeds), "seed")
            ),
            summary(widths),
            remarks,
            "### Slimmable: every seed",
            _every_seed(widths, arguments.seeds),
        ]
    )


def save(widths: Sequence[Width], arguments: argparse.Namespace) -> None:
    """Write what the picture is drawn from."""
    lines = [json.dumps({"width": w.width, "flops": w.flops, "sandwich": w.sandwich, "alone": w.alone}) for w in widths]
    head = f'"epochs": {arguments.epochs},\n"seeds": {arguments.seeds}'
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    arguments.picture.write_text(f'{{\n{head},\n"widths": [\n' + ",\n".join(lines) + "\n]\n}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is missing, write the tables; returns 1 if that failed or, with ``--check``, a promise isn't kept."""
    arguments = parse(argv)
    store = Store(arguments.json)
    if failed := train_missing(arguments, store):
        print(f"{len(failed)} trainings failed; no table is written")
        return 1
    widths = by_width(arguments, store)
    _results.write_section(arguments.results, "slimmable", section(widths, arguments))
    save(widths, arguments)
    print(summary(widths))
    print(f"the tables are in {arguments.results}")
    broken = list(misses(widths))
    print("\n".join(broken) if broken else "all promises are kept")
    return 1 if broken and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
