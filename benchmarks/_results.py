"""``RESULTS.md``: each measurement owns the text between its two markers, and leaves the rest alone."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["DEFAULT", "coverage_section", "machine", "table", "version_of", "write_section"]

DEFAULT = Path(__file__).resolve().parent / "RESULTS.md"

_PACKAGES = ("torch", "torchvision", "timm", "torch-pruning", "nvidia-modelopt", "mmrazor")


def write_section(path: Path, name: str, text: str) -> None:
    """Put a text between the markers of a section, which is appended if the file has none of that name."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = path.read_text() if path.exists() else "# Results\n"
    section = f"{begin}\n\n{text.strip()}\n\n{end}"
    if (begin in old) != (end in old) or old.count(begin) > 1:
        raise SystemExit(f"{path} must have {begin} and {end} once each; mend it, or name another file")
    if begin in old:
        head, rest = old.split(begin)
        new = head + section + rest.split(end)[1]
    else:
        new = f"{old.rstrip()}\n\n{section}\n"
    path.write_text(new)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(threads: int, versions: dict[str, str] | None = None) -> str:
    """Where and with what something was measured, in one line."""
    known = {name: version for name in _PACKAGES if (version := version_of(name))} | (versions or {})
    packages = ", ".join(f"{name} {version}" for name, version in known.items())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{dt.date.today().isoformat()}; {_processor()}, {cores} cores, {threads} "
        f"thread{'s' * (threads > 1)} a process; Python {platform.python_version()}, {packages}."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


# --- coverage
# -----------------------------------------------------------------------------------------------------------------

_SUMMARY = ("models", "tried", "ok", "wrong", "failed", "in a mutable unit, mean", "left at half, median")
_DETAIL = ("model", "ok", "exact", "parameters", "reached", "left at half", "GFLOPs", "at half", "prepare", "peak")


_COLUMNS = """\
Every unit at half of its channels, and at random ones. *Ok*: what comes out is really smaller, and computes what the
original does with the dropped channels zeroed (for ours also what the narrowed model in place does, in train mode too).
*Exact*: zeroing could be compared; a norm over the channels (GRN in convnextv2) differs from it by its nature, so a
peer without that notion counts as wrong there. *Reached*: share of the parameters in tensors that get smaller."""


def coverage_section(rows: Sequence[dict[str, Any]], title: str, where: str) -> str:
    """The rows of one tool: a summary of each family, every model, and what went wrong."""
    families = list(dict.fromkeys(row["family"] for row in rows))
    parts = [f"## {title}", where, _COLUMNS, table(_SUMMARY, [_summary(family, rows) for family in families])]
    for family in families:
        own = sorted((row for row in rows if row["family"] == family), key=lambda row: str(row["model"]))
        parts += [f"### {title}: {family}", table(_DETAIL, [_detail(row) for row in own])]
        bad = [f"- {row['model']}: {row['reason']}" for row in own if row["status"] != "ok"]
        parts += ["\n".join(bad)] if bad else []
    return "\n\n".join(parts)


def _summary(family: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    own = [row for row in rows if row["family"] == family]
    count = {status: sum(row["status"] == status for row in own) for status in ("ok", "wrong", "failed")}
    reached = [row["reached"] for row in own if "reached" in row]
    kept = [row["kept"] for row in own if "kept" in row]
    return [
        family,
        str(len(own)),
        *map(str, count.values()),
        f"{statistics.mean(reached):.1%}" if reached else "-",
        f"{statistics.median(kept):.2f}" if kept else "-",
    ]


def _detail(row: dict[str, Any]) -> list[str]:
    exact = {True: "yes", False: "no", None: "-"}[row.get("exact", False)]
    status = {"ok": "yes", "wrong": "**WRONG**", "failed": "no"}[row["status"]]
    cells = [str(row["model"]), status, exact if row["status"] == "ok" else "-"]
    for key, scale, form in (
        ("params", 1e6, "{:.1f} M"),
        ("reached", 0.01, "{:.1f} %"),
        ("kept", 1, "{:.2f}"),
        ("flops", 1e9, "{:.2f}"),
        ("flops_half", 1e9, "{:.2f}"),
        ("prepare_s", 1, "{:.2f} s"),
        ("peak_bytes", 2**20, "{:.0f} MiB"),
    ):
        cells.append("-" if row.get(key) is None else form.format(row[key] / scale))
    return cells
