"""One preparation of one model in a process of its own: ``python -m benchmarks._time --help``."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["STEPS"]

STEPS = ("traced", "prepared", "memory", "torch-pruning", "modelopt")
"""Our tracing and solving, our whole preparation with its proof, what memory that takes, and the peers."""


def _tracing(model: Any, inputs: Any) -> Callable[[], Any]:
    from benchmarks import _ours
    from lightning_channels import ForwardTracer

    _ours.warm_up()
    return lambda: ForwardTracer().trace(model, inputs)


def _ours(model: Any, inputs: Any) -> Callable[[], Any]:
    from benchmarks import _ours
    from lightning_channels import ChannelMutator

    _ours.warm_up()
    mutator = ChannelMutator()
    return lambda: mutator.prepare_from_supernet(model, inputs)


def _torch_pruning(model: Any, inputs: Any) -> Callable[[], Any]:
    from benchmarks import _torch_pruning

    _torch_pruning.warm_up()
    given = _torch_pruning.options(model, inputs)
    return lambda: _torch_pruning.make_pruner(model, inputs, given)


def _modelopt(model: Any, inputs: Any) -> Callable[[], Any]:
    from benchmarks import _modelopt

    _modelopt.warm_up()
    return lambda: _modelopt.convert(model)


_WORK = {
    "traced": _tracing,
    "prepared": _ours,
    "memory": _ours,
    "torch-pruning": _torch_pruning,
    "modelopt": _modelopt,
}


def measure(step: str, name: str, size: int, options: dict[str, Any]) -> dict[str, Any]:
    """Build a model, and measure one step on it.

    Returns:
        How long it ``took`` and how long a plain ``forward`` pass takes; for ``"memory"`` bytes.
    """
    import torch
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    inputs = torch.randn(1, 3, size, size)
    with torch.no_grad():
        model(inputs)
        forward = _timed(lambda: model(inputs))
    work = _WORK[step](model, inputs)
    if step == "memory":
        return _memory(model, inputs, work)
    return {"took": _timed(work), "forward": forward}


def _timed(work: Callable[[], Any]) -> dict[str, float]:
    """Seconds by the clock on the wall, and of computing."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def _memory(model: Any, inputs: Any, work: Callable[[], Any]) -> dict[str, Any]:
    import torch

    from benchmarks._memory import peak_of

    def forward() -> Any:
        with torch.enable_grad():  # so that all activations are there at once
            return model(inputs)

    _, activations = peak_of(forward)
    _, extra = peak_of(work)
    own = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    return {"model": own, "activations": activations, "extra": extra}


def main() -> None:
    """Measure, and write the result to a file."""
    parser = argparse.ArgumentParser(description="measure one step on one torchvision model in this process")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("model")
    parser.add_argument("size", type=int, help="of the input image")
    parser.add_argument("result", type=Path, help="file for the JSON object")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON", help="arguments of the model")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    try:
        row = measure(arguments.step, arguments.model, arguments.size, arguments.options)
    except Exception as error:
        row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    arguments.result.write_text(json.dumps(row))


if __name__ == "__main__":
    main()
