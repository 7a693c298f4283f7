"""How long models and single operators take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels.tracing.costs import CONTRACTIONS, SHOWING
from lightning_channels.tracing.program import Op, Program, Ref
from lightning_channels.tracing.recorder import record
from lightning_channels.tracing.running import ExampleInputs, call, evaluating

__all__ = ["OperatorTimes", "time_model"]

_SAMPLES = 10


def _seconds(function: Callable[[], Any], device: torch.device, budget: float) -> float:
    """Time of one call: the best of some samples that take about ``budget`` together, since others only add to it."""

    def sample(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - begin) / times

    sample(1)  # the first call chooses kernels and gets memory
    times = max(1, int(budget / _SAMPLES / max(sample(1), 1e-7)))
    return min(sample(times) for _ in range(_SAMPLES))


def time_model(model: nn.Module, inputs: ExampleInputs, device: torch.device, budget: float) -> float:
    """Seconds of one forward pass in eval mode.

    Args:
        model: On the device.
        inputs: On the device.
        device: Where it runs.
        budget: About as many seconds are spent.
    """
    model.eval()
    with torch.inference_mode():
        return _seconds(lambda: call(model, inputs), device, budget)


class OperatorTimes:
    """Times operators alone, each with its shapes once.

    Args:
        device: Where they run.
        budget: About as many seconds are spent on each.
    """

    def __init__(self, device: torch.device, budget: float) -> None:
        self._device, self._budget = device, budget
        self._known: dict[Any, float] = {}

    def of(self, model: nn.Module, inputs: ExampleInputs) -> dict[tuple[str, str], float]:
        """Seconds of a static model's operators: (module, ``"macs"`` or ``"activations"``) → their sum."""
        with evaluating(model):
            program = record(model, lambda: call(model, inputs), inputs)
        found: dict[tuple[str, str], float] = {}
        for op in program.ops:
            if not op.func.is_view and op.name not in SHOWING and any(out is not None for out in op.outputs):
                place = op.module, "macs" if op.name in CONTRACTIONS else "activations"
                found[place] = found.get(place, 0.0) + self._time(program, op)
        return found

    def _time(self, program: Program, op: Op) -> float:
        shapes = [(program.shapes[ref.id], program.dtypes[ref.id]) for ref in op.inputs()]
        key = str((op.func, shapes, _plain(op.args), _plain(op.kwargs)))
        if key not in self._known:
            args = [self._made(program, value) for value in op.args]
            kwargs = {name: self._made(program, value) for name, value in op.kwargs.items()}
            with torch.inference_mode():
                self._known[key] = _seconds(lambda: op.func(*args, **kwargs), self._device, self._budget)
        return self._known[key]

    def _made(self, program: Program, value: Any) -> Any:
        """An argument with tensors of any values in the place of references."""
        if isinstance(value, list):
            return [self._made(program, item) for item in value]
        if not isinstance(value, Ref):
            return value
        if value.id in program.constants:
            return program.constants[value.id].clone()
        shape, dtype = program.shapes[value.id], program.dtypes[value.id]
        if dtype.is_floating_point:
            return torch.rand(shape, device=self._device).to(dtype)
        return torch.zeros(shape, dtype=dtype, device=self._device)


def _plain(value: Any) -> Any:
    """An argument without its tensors."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return None if isinstance(value, (Ref, Tensor)) else value
