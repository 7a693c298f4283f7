"""Running a script of several processes, such as two ranks on gloo, that leaves files in a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import lightning_channels

__all__ = ["found_by_ranks", "run_as_torchrun_does", "run_ranks"]

_ROOT = Path(lightning_channels.__file__).parents[1]
_OF_AN_OUTER_RUN = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED")


def run_ranks(module: str, folder: Path, *arguments: str) -> None:
    """Run a module with the folder as its first argument, and assert that it ends well."""
    environment = {key: value for key, value in os.environ.items() if key not in _OF_AN_OUTER_RUN}
    environment |= {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, str(folder), *arguments]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def run_as_torchrun_does(module: str, *arguments: str) -> None:
    """Run a module in two processes with the environment that torchrun gives them, without torchrun's own process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", module, *arguments]
    running = [subprocess.Popen(command, env={**environment, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")]
    codes = [process.wait() for process in running]
    assert codes == [0, 0], codes


def found_by_ranks(folder: Path, weights_only: bool = True) -> list[Any]:
    """What two ranks have saved as ``rank0.pt`` and ``rank1.pt``."""
    return [torch.load(folder / f"rank{rank}.pt", weights_only=weights_only) for rank in (0, 1)]
