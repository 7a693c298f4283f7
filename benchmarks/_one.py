"""One model and one tool, in a process of its own: ``python -m benchmarks._one --help``.

The parent (``coverage.py``) gives a file; this process writes one JSON object there, also when the model fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
import warnings
from pathlib import Path
from typing import Any

__all__ = ["TOOLS", "measure"]

TOOLS = {
    "ours": "benchmarks._ours",
    "resources": "benchmarks._resources",
    "export": "benchmarks._export",
    "torch-pruning": "benchmarks._torch_pruning",
    "modelopt": "benchmarks._modelopt",
}
"""Each has ``warm_up()`` and ``measure(example, row)``."""


def measure(name: str, tool: str = "ours", **options: Any) -> dict[str, Any]:
    """Build a model and measure a tool on it.

    Args:
        name: See :func:`benchmarks._models.build`.
        tool: A key of :data:`TOOLS`; its package must be installed in this environment.
        options: Passed on to the tool.

    Returns:
        The row of the table. ``status`` is ``"ok"``, ``"wrong"`` (it computes something else than it must) or
        ``"failed"``, with the reason.
    """
    from benchmarks._check import WrongResultError, flops
    from benchmarks._models import build, family_of

    begin = time.perf_counter()
    row: dict[str, Any] = {"tool": tool, "model": name, "family": family_of(name), "status": "failed", "reason": ""}
    try:
        adapter = importlib.import_module(TOOLS[tool])
        example = build(name)
        row["params"] = sum(parameter.numel() for parameter in example.model.parameters())
        row["flops"] = flops(example.model, example.inputs)
        adapter.warm_up()
        adapter.measure(example, row, **options)
        row["status"] = "ok"
    except WrongResultError as error:
        row |= {"status": "wrong", "reason": str(error)}
    except Exception as error:
        row["reason"] = _brief(error)
    row["total_s"] = time.perf_counter() - begin
    return row


def _brief(error: Exception) -> str:
    message = " ".join(str(error).split())[:300]
    if "can't allocate memory" in message or isinstance(error, MemoryError):
        return f"reached the memory limit: {message[:120]}"
    return f"{type(error).__name__}: {message}"


def main() -> None:
    """Measure, and write the row to a file."""
    parser = argparse.ArgumentParser(description="measure one tool on one model in this process")
    parser.add_argument("model")
    parser.add_argument("result", type=Path, help="file for the JSON object")
    parser.add_argument("--tool", choices=TOOLS, default="ours")
    parser.add_argument("--memory", type=float, metavar="GIB", help="limit of this process")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="arguments of the tool")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.memory:
        from benchmarks._memory import limit_memory

        limit_memory(arguments.memory)
    row = measure(arguments.model, arguments.tool, **arguments.options)
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
