"""Running an example as a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lightning_channels._config import examples_dir

__all__ = ["TINY", "run_example"]

TINY = [
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.max_epochs=1",
    "report.latency_runs=1",
]
"""Overrides that make a training short; the widths of the report are each test's own."""


def run_example(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one of the examples with some arguments."""
    command = [sys.executable, "-W", "ignore", str(examples_dir() / name), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, check=False)
