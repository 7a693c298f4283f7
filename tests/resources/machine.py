"""A machine without noise, for tests of latency: it computes or writes one number in a nanosecond."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lightning_channels.resources import bench, timing
from lightning_channels.tracing.program import Op, Program

__all__ = ["simulate"]


def simulate(patch: Callable[[Any, str, Any], object] = setattr, overhead: float = 0.003) -> list[nn.Module]:
    """Time operators by their sizes; a whole model takes twice its operators' time, and more.

    Args:
        patch: Sets attributes, such as ``monkeypatch.setattr``.
        overhead: Seconds that any model takes besides.

    Returns:
        The whole models that were timed.
    """
    models: list[nn.Module] = []

    def whole(model: nn.Module, inputs: Any, device: torch.device, budget: float) -> float:
        models.append(model)
        operators = timing.OperatorTimes(device, budget)
        return 2 * sum(operators.of(model, inputs).values()) + overhead

    patch(timing.OperatorTimes, "_time", lambda self, program, op: _seconds(program, op))
    patch(bench, "time_model", whole)
    return models


def _seconds(program: Program, op: Op) -> float:
    if op.name == "convolution":
        weight, out = program.shapes[op.args[1].id], program.shapes[op.outputs[0].id]
        return out.numel() * math.prod(weight[1:]) * 1e-9
    if op.name == "addmm":
        return program.shapes[op.args[1].id].numel() * program.shapes[op.args[2].id][1] * 1e-9
    return sum(program.shapes[out.id].numel() for out in op.outputs if out is not None) * 1e-9
