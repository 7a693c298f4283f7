"""Recording a model in eval mode and in train mode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from torch import nn

from lightning_channels._modules import named_tensors_of
from lightning_channels.errors import TraceError
from lightning_channels.tracing.preserving import seeded
from lightning_channels.tracing.program import Program
from lightning_channels.tracing.recorder import record
from lightning_channels.tracing.running import ExampleInputs, check_inputs, doubled, evaluating, run, training
from lightning_channels.tracing.stand_ins import StandIns, ValuesNeededError

__all__ = ["Recording", "record_modes"]


@dataclass(frozen=True, slots=True)
class Recording:
    """What a model does.

    Attributes:
        program: In eval mode.
        training: In train mode, with at least two examples and without dropout; ``None`` if that fails.
        training_error: Why there is no ``training``.
    """

    program: Program
    training: Program | None
    training_error: str = ""


def record_modes(model: nn.Module, inputs: ExampleInputs) -> Recording:
    """Record a model in both modes. It comes out as it went in.

    Args:
        model: Any module.
        inputs: Example inputs.

    Raises:
        TraceError: If the model fails in eval mode.
    """
    # on other devices kernels choose other layouts, and are fast
    tensors = named_tensors_of(model)
    stand_ins = StandIns() if all(tensor.device.type == "cpu" for _, tensor in tensors) else None
    with evaluating(model) as restore:
        program = _record(model, check_inputs(inputs), stand_ins, restore)
        restore()
        try:
            with training(model):
                return Recording(program, _record(model, doubled(inputs), stand_ins, restore))
        except TraceError as error:
            return Recording(program, None, str(error))


def _record(
    model: nn.Module, inputs: ExampleInputs, stand_ins: StandIns | None, restore: Callable[[], None]
) -> Program:
    if stand_ins is not None:
        copied = check_inputs(inputs)
        # a TraceError as well: if the model fails without values, that needn't be the model's fault
        with suppress(ValuesNeededError, TraceError), seeded():
            return record(model, lambda: run(model, copied), copied, stand_ins)
        restore()
    with seeded():
        return record(model, lambda: run(model, inputs), inputs)
