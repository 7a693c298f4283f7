"""Which formats models at half width can be written in: subnet.yaml, safetensors, .pt2 and ONNX, all with any batch.

Each model runs in a process of its own, as in coverage.py, whose lists and names of models it shares; the files are run
in one more, where lightning_channels can't be imported. Rows go to a file of JSON lines; a second run measures what is
missing there. The table goes to RESULTS.md.

    python benchmarks/export.py                             # torchvision classification
    python benchmarks/export.py --family segmentation --family timm
    python benchmarks/export.py resnet50 timm:resnet50d
"""

from __future__ import annotations

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

_TOOL = "export"
_FORMATS = {
    "subnet.yaml": "`subnet.yaml`",
    "weights.safetensors": "safetensors",
    "model.pt2": "`.pt2`",
    "model.onnx": "ONNX",
}
_WHAT = """\
Every unit at half of its channels, written in each format for any size of the batch. *Holds*: what was written computes
what the prepared model does, to 1e-4 of the largest value in float32, for batches of one and of three; in a process
where this library can't be imported, but for `subnet.yaml`, which `load_subnet` makes into the original class with the
weights beside it. *Difference*: the largest of those that hold."""
_HEAD = ("models, format", "tried", "holds", "wrong", "not possible", "difference")


def section(rows: Sequence[dict[str, Any]]) -> str:
    """The table, and what doesn't hold, with what becomes of the plain model in the same format."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    table = _results.table(_HEAD, [_summary(family, name, rows) for family in families for name in _FORMATS])
    bad = [line for row in rows for line in _faults(row)]
    tried = [f"Tried, {family}: {', '.join(sorted(_named(family, rows)))}." for family in families]
    parts = ["## Export", _results.machine(1), _WHAT, table, *tried, "\n".join(bad)]
    return "\n\n".join(part for part in parts if part)


def _named(family: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    return [str(row["model"]) for row in rows if row["family"] == family]


def _formats(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is known of each format; a process that died knows none."""
    known = row.get("formats", {})
    return {name: known.get(name, {"reason": row["reason"]}) for name in _FORMATS}


def _state(found: dict[str, Any]) -> str:
    if "error" not in found:
        return "not possible"
    return "holds" if found["error"] <= 1e-4 else "wrong"


def _summary(family: str, name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    own = [_formats(row)[name] for row in rows if row["family"] == family]
    states = [_state(found) for found in own]
    held = [found for found, state in zip(own, states, strict=True) if state == "holds"]
    return [
        f"{family}, {_FORMATS[name]}",
        str(len(own)),
        *(str(states.count(state)) for state in ("holds", "wrong", "not possible")),
        f"{max(found['error'] for found in held):.1e}" if held else "-",
    ]


def _faults(row: dict[str, Any]) -> list[str]:
    lines = []
    for name, found in _formats(row).items():
        state = _state(found)
        if state == "holds":
            continue
        why = found.get("reason") or f"differs by {found['error']:.1e}"
        plain = {"": "", "works": " The plain model can be written."}.get(
            found.get("plain", ""), " The plain model can't be written either."
        )
        lines.append(f"- {row['model']}, {_FORMATS[name]}, {state}: {why}{plain}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, write the table; returns 1 if a format doesn't hold."""
    arguments = _lists.parser_of(_TOOL, __doc__, timeout=900).parse_args(argv)
    names = _lists.chosen(arguments)
    store = Store(arguments.json)
    limits = Limits(arguments.timeout)

    def measured(model: str) -> dict[str, Any]:
        return run_one(model, _TOOL, limits)

    todo = [name for name in names if (_TOOL, name) not in store.rows]
    for row in run_all(todo, store, measured, arguments.jobs):
        print(f"{row['model']}: {row['status']} {row.get('reason', '')} in {row.get('total_s', 0):.0f} s", flush=True)
    rows = [row for (tool, _), row in store.rows.items() if tool == _TOOL]
    _results.write_section(arguments.results, "export", section(rows))
    good = sum(store.rows[_TOOL, name]["status"] == "ok" for name in names)
    print(f"{good} of {len(names)} in every format; the table is in {arguments.results}")
    return 0 if good == len(names) else 1


if __name__ == "__main__":
    sys.exit(main())
