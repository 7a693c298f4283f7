"""Whether FLOPs and parameters of random choices are counted as torch counts them on the exported models, and how fast.

Each model runs in a process of its own, as in coverage.py, whose lists and names of models it shares. Rows go to a file
of JSON lines; a second run measures what is missing there. The table goes to RESULTS.md.

    python benchmarks/resources.py                             # torchvision classification
    python benchmarks/resources.py --family timm --jobs 2
    python benchmarks/resources.py resnet50 timm:resnet50d
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(ROOT / "benchmarks"):  # run as a script: this folder's names must hide no package
    sys.path[0] = str(ROOT)

from benchmarks import _lists, _results  # noqa: E402
from benchmarks._jobs import Limits, Store, run_all, run_one  # noqa: E402

__all__ = ["main", "section"]

_TOOL = "resources"
_HEAD = ("models", "tried", "equal", "different", "failed", "choices a second, median", "lowest")

_WHAT = """\
FLOPs and parameters as `Resources` counts them for the full width and three random choices, against
`torch.utils.flop_counter.FlopCounterMode` and the parameters of the exported model (the fast path of
`nn.MultiheadAttention` off, which torch's counter misses). *Equal*: to the last digit, at each. *Choices a second*:
of `Resources.measure` on 2000 choices at once."""


def section(rows: Sequence[dict[str, Any]]) -> str:
    """The table, and what isn't equal."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    bad = [f"- {row['model']}: {row['reason']}" for row in rows if row["status"] != "ok"]
    table = _results.table(_HEAD, [_summary(family, rows) for family in families])
    return "\n\n".join(["## Resources", _results.machine(1), _WHAT, table, *(["\n".join(bad)] if bad else [])])


def _summary(family: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    own = [row for row in rows if row["family"] == family]
    speeds = [row["choices_per_s"] for row in own if "choices_per_s" in row]
    count = [str(sum(row["status"] == status for row in own)) for status in ("ok", "wrong", "failed")]
    fast = [f"{statistics.median(speeds):,.0f}", f"{min(speeds):,.0f}"] if speeds else ["-", "-"]
    return [family, str(len(own)), *count, *fast]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the table; returns 1 if a model that was asked for isn't counted right."""
    arguments = _lists.parser_of(_TOOL, __doc__, timeout=600).parse_args(argv)
    names = _lists.chosen(arguments)
    store, limits = Store(arguments.json), Limits(arguments.timeout)
    todo = [name for name in names if (_TOOL, name) not in store.rows]
    for row in run_all(todo, store, lambda name: run_one(name, _TOOL, limits), arguments.jobs):
        print(f"{row['model']}: {row['status']} {row.get('reason', '')}", flush=True)
    _results.write_section(arguments.results, "resources", section(list(store.rows.values())))
    bad = [name for name in names if store.rows[_TOOL, name]["status"] != "ok"]
    print(f"{len(names) - len(bad)} of {len(names)} equal; the table is in {arguments.results}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
