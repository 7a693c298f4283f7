"""The tracer that reads autograd's graph, from a loss back to the model's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from lightning_channels._modules import modules_of, named_tensors_of
from lightning_channels.errors import TraceError
from lightning_channels.registry import TRACERS
from lightning_channels.tracing.backward_nodes import Journal, edge_of, next_number
from lightning_channels.tracing.backward_places import Origins
from lightning_channels.tracing.backward_program import translate
from lightning_channels.tracing.graph import ForwardTracer, ModuleGraph, Tracer
from lightning_channels.tracing.losses import LossCalculator, make_loss_calculator
from lightning_channels.tracing.preserving import seeded
from lightning_channels.tracing.program import Program
from lightning_channels.tracing.recorder import tensors_in
from lightning_channels.tracing.recording import Recording
from lightning_channels.tracing.running import ExampleInputs, describe, doubled, evaluating, mapped, run, training
from lightning_channels.tracing.solver import Attention

__all__ = ["BackwardTracer"]


@TRACERS.register()
class BackwardTracer(Tracer):
    """Runs the model, makes a loss of what it returns, and reads from autograd's graph how that came about.

    No gradient is computed. It finds what :class:`ForwardTracer` finds wherever the model is differentiable. What
    autograd's graph doesn't tell is pinned and reported: writes into parts of tensors, reentrant checkpoints, and
    functions with a backward of their own.

    Args:
        loss_calculator: Makes a tensor of what the model returns: a registered name, a dict with ``type``, or any
            callable. Whatever floating tensors the model returns are followed back besides.
        input_shape: Shape of the random images that are used where no example inputs are given.
        attention: What may go of an attention: whole ``"heads"``, or ``"dims"`` within them.

    Raises:
        ConfigError: If ``input_shape`` isn't a sequence of positive integers, ``attention`` isn't one of these, or
            ``loss_calculator`` isn't one.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> graph = BackwardTracer(input_shape=(1, 4)).trace(model)
        >>> [group.num_channels for group in graph.groups]
        [4, 8, 2]
    """

    def __init__(
        self,
        loss_calculator: Any = "SumPseudoLoss",
        input_shape: Sequence[int] = (1, 3, 224, 224),
        attention: Attention = "heads",
    ) -> None:
        super().__init__(input_shape, attention)
        self.loss_calculator: LossCalculator = make_loss_calculator(loss_calculator)

    def record(self, model: nn.Module, inputs: ExampleInputs) -> Recording:
        """Eval mode's and train mode's operators."""
        with evaluating(model) as restore:
            program = self._record(model, inputs, restore)
            restore()
            try:
                with training(model):
                    return Recording(program, self._record(model, doubled(inputs), restore))
            except TraceError as error:
                return Recording(program, None, str(error))

    def replayable(self, graph: ModuleGraph, inputs: ExampleInputs) -> ModuleGraph:
        """What the forward tracer records: autograd doesn't keep the numbers that operators were called with."""
        return ForwardTracer(self.input_shape, self.attention).trace(graph.model, inputs)

    def _record(self, model: nn.Module, inputs: ExampleInputs, restore: Callable[[], None]) -> Program:
        try:
            with _differentiable(_learnable(model, buffers=True)):
                return self._follow(model, inputs)
        except TraceError:  # not every operator lets a buffer learn: batch norm's statistics, or one that is written to
            restore()
            with _differentiable(_learnable(model, buffers=False)):
                return self._follow(model, inputs)

    def _follow(self, model: nn.Module, inputs: ExampleInputs) -> Program:
        journal, origins = Journal(model), Origins()
        given: dict[Any, Tensor] = {}

        def copied(tensor: Tensor) -> Tensor:
            """With a history, and free to be written to."""
            if not tensor.is_floating_point():
                twin = tensor.detach().clone()
                origins.mark(twin)
                return twin
            twin = tensor.detach().clone().requires_grad_().clone()
            given[twin.grad_fn] = twin
            return twin

        with ExitStack() as modes:
            modes.callback(origins.forget, [tensor for _, tensor in named_tensors_of(model)])
            for mode in (torch.inference_mode(False), torch.enable_grad(), seeded()):
                modes.enter_context(mode)
            modes.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
            copies = mapped(copied, inputs)
            modes.enter_context(origins)
            with journal.open():
                outputs = run(model, copies)
            end = next_number()
            loss = self._loss(model, outputs)
            edges = [edge_of(tensor) for tensor in tensors_in(outputs)]
            ends = [edge for edge in (*edges, edge_of(loss)) if edge is not None]
            # inside, because a checkpoint makes again what it saved when that is read
            return translate(model, journal, origins, given, ends, end)

    def _loss(self, model: nn.Module, outputs: Any) -> Tensor:
        calculator = getattr(self.loss_calculator, "__name__", type(self.loss_calculator).__name__)
        name = f"the loss that {calculator} makes of what {type(model).__name__} returns"
        try:
            loss: Any = self.loss_calculator(outputs)
        except TraceError:
            raise
        except Exception as error:
            detail = " ".join(str(error).split())[:300]
            raise TraceError(
                f"{name} failed: {type(error).__name__}: {detail}. It is called with the model's outputs "
                f"({describe(outputs)}) and must return a tensor that depends on them"
            ) from error
        if isinstance(loss, Tensor) and loss.requires_grad:
            return loss
        what = "has no gradient" if isinstance(loss, Tensor) else f"is a {type(loss).__name__}, and no tensor"
        raise TraceError(
            f"{name} {what}, so there is nothing to follow back; it must be a tensor that depends on the model's "
            "outputs. Where the model itself runs without gradients, use ForwardTracer"
        )


def _learnable(model: nn.Module, buffers: bool) -> list[Tensor]:
    """The tensors that can have a gradient; batch norm's statistics can't."""
    statistics = {
        id(buffer)
        for module in modules_of(model)
        if isinstance(module, _NormBase)
        for buffer in module._buffers.values()
    }
    return [
        tensor
        for _, tensor in named_tensors_of(model)
        if tensor.is_leaf
        and (tensor.is_floating_point() or tensor.is_complex())
        and (isinstance(tensor, nn.Parameter) or (buffers and id(tensor) not in statistics))
    ]


@contextmanager
def _differentiable(tensors: list[Tensor]) -> Iterator[None]:
    """Tensors require grad for a while, so that frozen layers and buffers have a history too."""
    changed = [tensor for tensor in tensors if not tensor.requires_grad]
    try:
        for tensor in changed:
            tensor.requires_grad_()
        yield
    finally:
        for tensor in changed:
            tensor.requires_grad_(False)
