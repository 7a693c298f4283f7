"""How many models work: prepared, all units halved, and compared with the masked original.

Each model runs in a process of its own with a time and a memory limit. Rows go to a file of JSON lines as they come; a
second run measures what is missing there. The table goes to RESULTS.md, between the markers of the tool's section.

    python benchmarks/coverage.py                              # torchvision classification, with this library
    python benchmarks/coverage.py resnet50 timm:resnet50d      # these models
    python benchmarks/coverage.py mypackage.nets:MyModel       # anything that can be imported and called
    python benchmarks/coverage.py --family timm --jobs 2       # a list (see --list)
    python benchmarks/coverage.py --tool torch-pruning         # a peer, in an environment that is made for it
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _exceptions, _lists, _peers, _results  # noqa: E402
from benchmarks._jobs import Limits, Store, run_all, run_one  # noqa: E402

__all__ = ["main"]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = _lists.parser_of("coverage", __doc__, timeout=600)
    add = parser.add_argument
    add("--list", action="store_true", help="print the names and stop")
    add("--tool", choices=("ours", *_peers.PEERS), default="ours")
    add("--options", type=json.loads, default={}, metavar="JSON", help="""for the tool, as '{"verify": "full"}'""")
    add("--again", choices=("bad", "all"), help="measure again what is in that file: what wasn't ok there, or all")
    add("--threads", type=int, default=1, help="torch threads of each (1)")
    add("--memory", type=float, metavar="GIB", help="limit of each model (none)")
    add("--environments", type=Path, default=_peers.DEFAULT, help="folder of the peers' environments (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1 or arguments.threads < 1 or arguments.timeout <= 0:
        parser.error("--jobs and --threads must be at least 1, and --timeout positive")
    return arguments


def missing(names: list[str], arguments: argparse.Namespace, store: Store) -> list[str]:
    """The models that the file has no row of, or none that counts."""
    known = {model: row for (tool, model), row in store.rows.items() if tool == arguments.tool}
    if arguments.again == "all":
        return names
    return [n for n in names if n not in known or (arguments.again == "bad" and known[n]["status"] != "ok")]


def describe(row: dict[str, Any]) -> str:
    """One line about a row."""
    if row["status"] != "ok":
        return f"{row['model']}: {row['status'].upper()}: {row['reason']}"
    return (
        f"{row['model']}: ok, {row['reached']:.1%} of the parameters reached, {row['kept']:.2f} left at half, "
        f"prepared in {row['prepare_s']:.2f} s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the table; returns 1 if a model that was asked for isn't as it must be."""
    arguments = parse(argv)
    names = _lists.chosen(arguments, hint="; --list without --only shows all")
    if arguments.list:
        print("\n".join(names))
        return 0
    store = Store(arguments.json)
    todo = missing(names, arguments, store)
    print(f"{len(names)} models, {len(names) - len(todo)} measured before")
    peer = _peers.PEERS.get(arguments.tool)
    python = sys.executable if peer is None or not todo else str(_peers.python_of(peer, arguments.environments))
    limits = Limits(arguments.timeout, arguments.memory, arguments.threads)

    def measure(model: str) -> dict[str, Any]:
        return run_one(model, arguments.tool, limits, python, arguments.options)

    for row in run_all(todo, store, measure, arguments.jobs):
        print(describe(row), flush=True)
    rows = [row for (tool, _), row in store.rows.items() if tool == arguments.tool]
    versions = {} if peer is None else {peer.package: peer.version}
    text = _results.coverage_section(rows, f"Coverage: {arguments.tool}", _results.machine(arguments.threads, versions))
    _results.write_section(arguments.results, f"coverage {arguments.tool}", text)
    bad = [name for name in names if store.rows[arguments.tool, name]["status"] != "ok"]
    print(f"{len(names) - len(bad)} of {len(names)} ok; the table is in {arguments.results}")
    problems = _exceptions.load().problems(store.rows["ours", n] for n in names) if arguments.tool == "ours" else []
    print("".join(f"{problem}\n" for problem in problems), end="")
    return 1 if bad or problems else 0


if __name__ == "__main__":
    sys.exit(main())
