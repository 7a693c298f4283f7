"""A process for each model, with limits, so that one that hangs or dies takes nothing with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Limits", "Store", "environment", "row_of", "run_all", "run_one"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process may use.

    Attributes:
        seconds: Wall time.
        gib: Memory; ``None`` for no limit.
        threads: Of torch.
    """

    seconds: float = 600.0
    gib: float | None = None
    threads: int = 1


class Store:
    """Rows in a file of JSON lines, one for each tool and model; what is there need not be measured again.

    Args:
        path: The file; it is made with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        if path.exists():
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    row = json.loads(line)
                    self.rows[row["tool"], row["model"]] = row
                except (ValueError, KeyError, TypeError):
                    raise SystemExit(f"{path}:{number} is no row of a measurement; name another file") from None

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row; a later one for the same tool and model replaces it when the file is read."""
        self.rows[row["tool"], row["model"]] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def environment(threads: int) -> dict[str, str]:
    """Variables of a process: this repository on the path, and as many threads everywhere."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    numbers = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **numbers, "PYTHONPATH": path}


def row_of(
    command: Callable[[Path], Sequence[str | Path]], variables: dict[str, str], seconds: float
) -> dict[str, Any]:
    """What a process of its own measured; with ``error`` if it failed.

    Args:
        command: Makes the command line, of the file for the JSON object.
        variables: Its environment.
        seconds: Its limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        try:
            done = subprocess.run(
                command(result), env=variables, capture_output=True, text=True, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {seconds:g} s"}
        if result.exists():
            return dict(json.loads(result.read_text()))
        return {"error": f"the process ended with {done.returncode}: {done.stderr.strip()[-200:]}"}


def run_one(
    model: str, tool: str, limits: Limits, python: str = sys.executable, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Measure a tool on a model in a process of its own.

    Returns:
        Its row; where the process left none, one that says what became of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        command = [python, "-m", "benchmarks._one", model, str(result), "--tool", tool]
        command += ["--options", json.dumps(options or {})]
        if limits.gib is not None:
            command += ["--memory", str(limits.gib)]
        row = {"tool": tool, "model": model, "family": _family(model), "status": "failed"}
        process = subprocess.Popen(
            command,
            env=environment(limits.threads),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            _, errors = process.communicate(timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return row | {"reason": f"took longer than the limit of {limits.seconds:g} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it started
            process.communicate()
        if result.exists():
            return dict(json.loads(result.read_text()))
        last = errors.strip().splitlines()[-1:] or [""]
        return row | {"reason": f"the process ended with {process.returncode}: {last[0][:200]}".rstrip(": ")}


def _family(model: str) -> str:
    from benchmarks._models import family_of

    return family_of(model)


def run_all(
    models: Sequence[str], store: Store, measure: Callable[[str], dict[str, Any]], jobs: int
) -> Iterator[dict[str, Any]]:
    """Measure models, some at a time, keep each row at once, and give it."""
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(measure, model) for model in models]
        try:
            for done in as_completed(waiting):
                row = done.result()
                store.add(row)
                yield row
        finally:
            for future in waiting:
                future.cancel()
