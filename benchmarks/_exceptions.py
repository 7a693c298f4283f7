"""How much of a model must be in a mutable unit, and which models are allowed less."""

from __future__ import annotations

import statistics
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FLOOR", "MEANS", "Exceptions", "load"]

FLOOR = 0.9
"""Share of the parameters, for each model."""

MEANS = {"classification": 0.99, "segmentation": 0.99, "timm": 0.97, "attention": 0.95, "huggingface": 0.95}
"""Share of the parameters, on average over a family's models."""


@dataclass(frozen=True, slots=True)
class Exceptions:
    """The reviewed list.

    Args:
        models: Name to the reason why less of it can change.
    """

    models: dict[str, str]

    def problem(self, row: dict[str, Any]) -> str:
        """What is wrong with a model's share; empty if nothing is."""
        name, reached = row["model"], row.get("reached")
        if reached is None:
            return ""
        if reached < FLOOR and name not in self.models:
            held = "; ".join(f"{r['unit']}: {r['reason']}" for r in row.get("refused", [])[:3])
            return f"{name}: only {reached:.1%} of its parameters are in a mutable unit ({held})"
        if name in self.models and reached >= FLOOR:
            return f"{name}: {reached:.1%} of its parameters are in a mutable unit; its exception is not needed"
        return ""

    def problems(self, rows: Iterable[dict[str, Any]]) -> list[str]:
        """What is wrong with the models' shares, one by one and on average."""
        rows = [row for row in rows if row.get("reached") is not None]
        found = [problem for row in rows if (problem := self.problem(row))]
        for family, least in MEANS.items():
            shares = [r["reached"] for r in rows if r["family"] == family]
            if shares and statistics.mean(shares) < least:
                mean = statistics.mean(shares)
                found.append(
                    f"{family}: {mean:.1%} of the parameters are in a mutable unit on average, not {least:.0%}"
                )
        return found


def load(path: Path | None = None) -> Exceptions:
    """Read the list; ``exceptions.toml`` beside this file by default.

    Raises:
        SystemExit: If an entry has no reason.
    """
    path = path or Path(__file__).with_name("exceptions.toml")
    data = tomllib.loads(path.read_text())
    for name, reason in data["models"].items():
        if not isinstance(reason, str) or not reason.strip():
            raise SystemExit(f"{path}: the entry of {name!r} must say why")
    return Exceptions(dict(data["models"]))
