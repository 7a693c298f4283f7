"""Running a model while watching what each of its modules returns."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels._modules import named_modules_of
from lightning_channels.tracing.chance import without_chance
from lightning_channels.tracing.following import following
from lightning_channels.tracing.preserving import Attributes, seed
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.running import ExampleInputs, call
from lightning_channels.tracing.source_lines import line_of

__all__ = ["Crash", "Observed", "Outcome", "run_model"]


@dataclass(slots=True)
class Observed:
    """What one module call returned; ``None`` in the place of a tensor that isn't looked at."""

    module: str
    values: list[Tensor | None]


@dataclass(slots=True)
class Crash:
    """How a model failed.

    Attributes:
        module: Dotted name of the innermost module that was running.
        error: The exception's type and message.
        line: File and line of the innermost code that isn't PyTorch's.
    """

    module: str
    error: str
    line: str


@dataclass(slots=True)
class Outcome:
    """What came of a forward pass.

    Attributes:
        outputs: The tensors that were returned.
        calls: The module calls, in the order in which they ended.
        buffers: Floating buffers by name, as the run left them, where it was in train mode.
        crash: How it failed, if it did.
    """

    outputs: list[Tensor] = field(default_factory=list)
    calls: list[Observed] = field(default_factory=list)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    crash: Crash | None = None


@torch.no_grad()
def run_model(
    model: nn.Module,
    inputs: ExampleInputs,
    random: bool = False,
    watch: bool = True,
    attributes: Attributes | None = None,
) -> Outcome:
    """Call a model, which may fail.

    Args:
        model: In the mode that it is to run in.
        inputs: It may write into them.
        random: Whether it draws random numbers, out of which chance is to be taken.
        watch: Whether to note what each module returns, and which one failed.
        attributes: Those of the model's modules, if they are known.
    """
    outcome = Outcome()
    failed: list[tuple[BaseException, str]] = []
    try:
        seed()  # the whole proof puts the random states back
        with without_chance(random), _following(model, outcome.calls, failed) if watch else nullcontext():
            outcome.outputs = list(tensors_in(call(model, inputs, attributes)))
    except Exception as error:
        module = next((name for known, name in failed if known is error), "")
        detail = " ".join(str(error).split())[:200]
        outcome.crash = Crash(module, f"{type(error).__name__}: {detail}", _line(error))
    return outcome


@contextmanager
def _following(model: nn.Module, calls: list[Observed], failed: list[tuple[BaseException, str]]) -> Iterator[None]:
    """Note each module call that ends, and with each exception the innermost module that it left."""
    names = {module: name for name, module in named_modules_of(model)}
    stack = [""]
    outside = sys.exc_info()[1]  # whoever calls us may be handling an exception of his own

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(names.get(module, stack[-1]))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        name = stack.pop()
        error = sys.exc_info()[1]
        if error is not None and error is not outside:
            if not any(known is error for known, _ in failed):
                failed.append((error, name))
        elif module in names:
            calls.append(Observed(name, list(tensors_in(output))))

    with following(enter, leave):
        yield


def _line(error: BaseException) -> str:
    """Where the user's code raised it."""
    lines = [line_of(frame, number) for frame, number in traceback.walk_tb(error.__traceback__)]
    return next((line for line in reversed(lines) if line), "")
