"""Memory of this process: what it holds, what it held at most, and a limit for it."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["limit_memory", "peak_of"]

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def limit_memory(gib: float) -> None:
    """Let allocations beyond ``gib`` GiB of data fail, rather than the machine."""
    size = int(gib * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def peak_of(work: Callable[[], Any]) -> tuple[Any, int | None]:
    """Do some work, and measure how far the process's memory rose above what it held before.

    Returns:
        What ``work`` returned, and the rise in bytes; ``None`` where the system doesn't tell (it takes Linux).
    """
    if not sys.platform.startswith("linux"):
        return work(), None
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed isn't held, or it would hide what is allocated next
    before = _read("VmRSS")
    _RESET.write_text("5")
    result = work()
    return result, max(0, _read("VmHWM") - before)


def _read(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"{_STATUS} has no {key}")
