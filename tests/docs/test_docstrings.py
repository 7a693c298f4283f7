"""The examples in the docstrings, which the API reference shows, do what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_examples_run() -> None:
    # in a process of its own: examples register rules, samplers and ops
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    script = Path(__file__).with_name("doctests.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-4]) >= 90
