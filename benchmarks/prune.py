"""Pruning to a budget against Torch-Pruning: accuracy before and after training on, size and speed of what comes out.

Each seed trains a network once; both sides start from its file, prune by the same criterion to the same share of the
multiply-adds, and train on with the same batches. Each part is a process of its own, Torch-Pruning's in an environment
that is made for it. Rows go to a file of JSON lines as they come, and a second run measures what is missing there. The
tables go to RESULTS.md, between the markers of their section, and the figures for the documentation's picture to a
file beside it.

    python benchmarks/prune.py --jobs 2                           # all, some thirty minutes
    python benchmarks/prune.py --steps                            # Torch-Pruning in small steps, as its examples do
    python benchmarks/prune.py --check                            # returns 1 if ours is behind anywhere
    python benchmarks/prune.py --quick --networks digits --seeds 0 --criteria l1 --results try.md --picture try.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _peers, _results  # noqa: E402
from benchmarks._jobs import Store, environment, row_of, run_all  # noqa: E402
from benchmarks._prune_tables import NAMES, Comparison, comparisons, misses, section, summary  # noqa: E402
from benchmarks._prune_task import NETWORKS  # noqa: E402

__all__ = ["main"]

DEFAULT = ("l1", "bn_scale", "taylor", "random")
"""Criteria that are compared where none are named."""

TARGETS = (0.5, 0.25)
"""Shares of the multiply-adds."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="prune.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="all by default")
    add("--criteria", nargs="+", choices=NAMES, default=list(DEFAULT), help=" ".join(DEFAULT))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], metavar="SEED", help="0 1 2 3 4")
    add(
        "--steps", action="store_true", help="let Torch-Pruning prune in small steps, not at once; a section of its own"
    )
    add("--quick", action="store_true", help="next to no training: whether all runs; its rows are kept apart")
    add("--check", action="store_true", help="return 1 if ours is behind anywhere")
    add("--json", type=Path, default=ROOT / "benchmarks/raw/prune.jsonl", help="file of the rows (%(default)s)")
    add("--results", type=Path, default=_results.DEFAULT, help="file of the tables (%(default)s)")
    add("--picture", type=Path, default=ROOT / "docs/pictures/prune.json", help="for the picture (%(default)s)")
    add("--jobs", type=int, default=1, help="processes at a time (1)")
    add("--timeout", type=float, default=900, metavar="S", help="limit of each process (900 s)")
    add("--environments", type=Path, default=_peers.DEFAULT, help="folder of the peers' environments (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1 or arguments.timeout <= 0:
        parser.error("--jobs must be at least 1, and --timeout positive")
    for name in ("networks", "criteria", "seeds"):
        setattr(arguments, name, list(dict.fromkeys(getattr(arguments, name))))
    return arguments


# --- measuring
# -----------------------------------------------------------------------------------------------------------------


class Measure:
    """Runs the processes of one trained network after another.

    Args:
        arguments: The command line.
        peer: Torch-Pruning's interpreter.
    """

    def __init__(self, arguments: argparse.Namespace, peer: Path) -> None:
        self._arguments = arguments
        self._peer = peer

    def __call__(self, network: str, seed: int, criteria: Sequence[str]) -> dict[str, Any]:
        """Both sides, all targets; ``status`` says whether all came to their end."""
        try:
            base = self._base(network, seed)
            with tempfile.TemporaryDirectory() as folder:
                more = ["--folder", folder, "--criteria", *criteria]
                ours, theirs, speed = (
                    self._process(part, network, seed, *more) for part in ("ours", "theirs", "speed")
                )
        except _FailedError as error:
            return {"status": "failed", "reason": str(error)}
        found: dict[str, Any] = {}
        for criterion in criteria:
            sides = {"ours": ours[criterion], "theirs": theirs[criterion]}
            for side, rows in sides.items():
                for row, ms in zip(rows, speed[criterion], strict=True):
                    row["ms"] = ms[side]
            found[criterion] = sides
        return {"status": "ok", "base": base, "criteria": found}

    def _base(self, network: str, seed: int) -> dict[str, Any]:
        """The trained network's figures; it is trained where its file isn't there yet."""
        known = self._file(network, seed).with_suffix(".json")
        if not known.exists():
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps(self._process("train", network, seed)))
        return dict(json.loads(known.read_text()))

    def _file(self, network: str, seed: int) -> Path:
        quick = "-quick" if self._arguments.quick else ""
        return Path(self._arguments.json).parent / "prune" / f"{network}-{seed}{quick}.pt"

    def _process(self, part: str, network: str, seed: int, *more: str) -> dict[str, Any]:
        def command(result: Path) -> list[str | Path]:
            line = [self._peer if part == "theirs" else sys.executable, "-m", "benchmarks._prune", part, result]
            line += ["--network", network, "--task", self._file(network, seed), "--seed", str(seed), *more]
            return [*line, "--targets", *map(str, TARGETS), *flags]

        flags = [f"--{name}" for name in ("quick", "steps") if getattr(self._arguments, name)]
        row = row_of(command, environment(1), self._arguments.timeout)
        if "error" in row:
            raise _FailedError(f"{part}: {row['error']}")
        return row


class _FailedError(Exception):
    """A process came to no end."""


def name_of(network: str, seed: int) -> str:
    """A trained network's name in the file of the rows."""
    return f"{network}, seed {seed}"


def measure_missing(arguments: argparse.Namespace, store: Store) -> list[str]:
    """Measure what the file has no good row of.

    Returns:
        What failed.
    """
    tool = tool_of(arguments)
    parts = {name_of(*key): key for key in itertools.product(arguments.networks, arguments.seeds)}
    known = {name: row for name in parts if (row := store.rows.get((tool, name), {})).get("status") == "ok"}
    todo = {name: [c for c in arguments.criteria if c not in known.get(name, {}).get("criteria", {})] for name in parts}
    todo = {name: criteria for name, criteria in todo.items() if criteria}
    print(f"{len(parts)} trained networks, {len(parts) - len(todo)} measured before", flush=True)
    if not todo:
        return []
    measure = Measure(arguments, _peers.python_of(_peers.PEERS["torch-pruning"], arguments.environments))

    def measured(name: str) -> dict[str, Any]:
        row = {"tool": tool, "model": name, **measure(*parts[name], todo[name])}
        if row["status"] == "ok" and name in known:
            row["criteria"] = known[name]["criteria"] | row["criteria"]
        return row

    failed = []
    for row in run_all(list(todo), store, measured, arguments.jobs):
        print(f"{row['model']}: {_described(row)}", flush=True)
        failed += [] if row["status"] == "ok" else [row["model"]]
    return failed


def tool_of(arguments: argparse.Namespace) -> str:
    """Rows with next to no training are kept apart, and so are those of the other way to prune."""
    return "prune" + ", theirs in steps" * arguments.steps + ", quick" * arguments.quick


def _described(row: dict[str, Any]) -> str:
    if row["status"] != "ok":
        return f"FAILED: {row['reason']}"
    parts = []
    for criterion, sides in row["criteria"].items():
        pairs = zip(sides["ours"], sides["theirs"], strict=True)
        parts.append(
            criterion + "".join(f", {o['after']:.2%} to {t['after']:.2%} at {o['target']:g}" for o, t in pairs)
        )
    return "; ".join(parts)


# --- results
# -----------------------------------------------------------------------------------------------------------------


def save(found: Sequence[Comparison], arguments: argparse.Namespace) -> None:
    """Write what the picture is drawn from."""
    lines = [
        json.dumps(
            {
                "network": one.network,
                "title": NETWORKS[one.network].title,
                "criterion": one.criterion,
                "name": NAMES[one.criterion],
                "target": one.target,
                "ours": [row["after"] for row in one.ours],
                "theirs": [row["after"] for row in one.theirs],
                "interval": [round(end, 6) for end in one.interval()],
            }
        )
        for one in found
    ]
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    head = f'"seeds": {arguments.seeds}'
    arguments.picture.write_text(f'{{\n{head},\n"comparisons": [\n' + ",\n".join(lines) + "\n]\n}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the tables; returns 1 if that failed or, with ``--check``, ours is behind."""
    arguments = parse(argv)
    store = Store(arguments.json)
    if failed := measure_missing(arguments, store):
        print(f"{len(failed)} networks failed; no table is written")
        return 1
    tool = tool_of(arguments)
    rows = {name: [store.rows[tool, name_of(name, seed)] for seed in arguments.seeds] for name in arguments.networks}
    found = comparisons(rows, arguments.criteria, TARGETS)
    version = _peers.PEERS["torch-pruning"].version
    name = "prune steps" if arguments.steps else "prune"
    _results.write_section(arguments.results, name, section(found, arguments.seeds, version, arguments.steps))
    if not arguments.steps:
        save(found, arguments)
    print(summary(found))
    print(f"the tables are in {arguments.results}")
    behind = list(misses(found))
    print("\n".join(behind) if behind else "nowhere is ours behind")
    return 1 if behind and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
