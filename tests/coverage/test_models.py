"""Every model of the lists: prepared with the full proof, narrowed, and compared from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks._exceptions import load
from benchmarks._jobs import ROOT, Limits, Store, run_one
from benchmarks._models import FAMILIES, names_of

pytestmark = [pytest.mark.coverage, pytest.mark.timeout(2000)]

LIMITS = Limits(seconds=1800, gib=float(os.environ.get("COVERAGE_GIB", "16")))
ROWS = Path(os.environ.get("COVERAGE_JSON", ROOT / "benchmarks" / "raw" / "coverage.jsonl"))
LISTS = ("classification", "segmentation", "timm", "attention", "huggingface")
NAMES = [name for family in LISTS for name in names_of(family)]
PACKAGES = {"timm": "timm", "hf": "transformers"}


@pytest.mark.parametrize("name", NAMES)
def test_is_right_and_reached(name: str) -> None:
    package = PACKAGES.get(name.partition(":")[0])
    if package is not None:
        pytest.importorskip(package, reason="pip install -e '.[coverage]'")
    row = run_one(name, "ours", LIMITS, options={"verify": "full"})
    Store(ROWS).add(row)
    assert row["status"] == "ok", row["reason"]
    # where every unit is normalised over, there is no masked original to compare with
    assert row["exact"] is (True if row["inexact"] < row["mutable"] else None)
    assert not load().problem(row)


def test_every_exception_names_a_model() -> None:
    assert set(load().models) <= {name for family in FAMILIES for name in names_of(family)}
