"""The graph of a model's channels: what the tracer found, in the form that units are made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from lightning_channels._modules import named_tensors_of, unchanging
from lightning_channels._plain import is_int
from lightning_channels.errors import ConfigError, PrepareError
from lightning_channels.registry import TRACERS
from lightning_channels.tracing.grouping import Group
from lightning_channels.tracing.policy import find_groups
from lightning_channels.tracing.preserving import paused_gc
from lightning_channels.tracing.program import Program
from lightning_channels.tracing.recording import Recording, record_modes
from lightning_channels.tracing.running import ExampleInputs, check_inputs, default_inputs
from lightning_channels.tracing.sides import find_sides, pin_refused
from lightning_channels.tracing.solver import ATTENTION, Attention, Solution
from lightning_channels.tracing.walk import Walk, walk

__all__ = ["ForwardTracer", "ModuleGraph", "Tracer"]

_MOST_NUMBERS = 2**28
"""In random images: a gigabyte."""


class ModuleGraph:
    """Which channels of a model's modules depend on each other.

    Attributes:
        model: The traced model.
        program: The recorded operators.
        training: Those of train mode; ``None`` where the example inputs don't suit it.
        training_error: Why there is no ``training``.
        walk: Labels of every tensor in it.
        solution: Classes of the labels.
        roots: Label → class, once, or twice where heads and the places in them may go apart from each other: the second
            ones are numbered on from the first.
        groups: Channels that can only change together, in the order of their modules.
        attention: What may go of an attention: ``"heads"``, ``"dims"`` within them, or ``"both"``.
    """

    def __init__(
        self,
        model: nn.Module,
        program: Program,
        training: Program | None = None,
        training_error: str = "",
        attention: Attention = "heads",
    ) -> None:
        self.model = model
        self.attention: Attention = attention
        self.program = program
        self.training = training
        self.training_error = training_error
        self.walk: Walk = walk(program, training)
        refused = pin_refused(model, self.walk)
        sides = find_sides(model, self.walk, refused)
        solutions, groups = find_groups(model, self.walks, sides, attention)
        self.solution: Solution = solutions[0]
        self.roots: list[Tensor] = [s.root + number * len(s.root) for number, s in enumerate(solutions)]
        self.groups: list[Group] = groups

    @property
    def walks(self) -> list[Walk]:
        """The walks through the recorded programs: eval mode's, and train mode's where it was recorded."""
        return [self.walk] if self.walk.training is None else [self.walk, self.walk.training]

    def classes_of(self, labels: Tensor) -> list[Tensor]:
        """Classes of labels, once for each of ``roots``."""
        return [root[labels.long()] for root in self.roots]

    def left(self, dropped: Iterable[Tensor]) -> Tensor:
        """Which labels are left, a boolean for each.

        Args:
            dropped: Classes of groups (their ``classes``) that are left out.
        """
        gone = torch.zeros(sum(map(len, self.roots)), dtype=torch.bool)
        for classes in dropped:
            gone[classes] = True
        return ~torch.stack([gone[root] for root in self.roots]).any(0)

    @property
    def unruled(self) -> list[tuple[str, str]]:
        """(operator, module) of each operator that has no rule; what reaches it can't change."""
        return list(self.walk.unruled)

    @classmethod
    def init_from_forward_tracer(cls, model: nn.Module, example_inputs: ExampleInputs | None = None) -> ModuleGraph:
        """Trace a model with :class:`ForwardTracer`'s defaults."""
        return ForwardTracer().trace(model, example_inputs)

    @classmethod
    def init_from_backward_tracer(cls, model: nn.Module, example_inputs: ExampleInputs | None = None) -> ModuleGraph:
        """Trace a model with :class:`BackwardTracer`'s defaults."""
        from lightning_channels.tracing.backward import BackwardTracer

        return BackwardTracer().trace(model, example_inputs)


class Tracer:
    """What all tracers share: they record a model's operators, each in its way, and the same is made of these.

    Args:
        input_shape: Shape of the random images that are used where no example inputs are given.
        attention: What may go of an attention: whole ``"heads"``, which changes nothing for the others; ``"dims"``, the
            same places in each of its heads; or ``"both"``, apart from each other.

    Raises:
        ConfigError: If ``input_shape`` isn't a sequence of positive integers, or ``attention`` isn't one of these.
    """

    def __init__(self, input_shape: Sequence[int] = (1, 3, 224, 224), attention: Attention = "heads") -> None:
        if attention not in ATTENTION:
            raise ConfigError(f"attention must be one of {', '.join(map(repr, ATTENTION))}, got {attention!r}")
        self.attention: Attention = attention
        shape = list(input_shape) if isinstance(input_shape, (list, tuple)) else []
        if not shape or not all(is_int(n) and n > 0 for n in shape):
            raise ConfigError(f"input_shape must be a sequence of positive integers, got {input_shape!r}")
        if math.prod(shape) > _MOST_NUMBERS:
            raise ConfigError(
                f"input_shape {input_shape!r} makes random images of more than {_MOST_NUMBERS:,} numbers; "
                "give the shape of a small batch, for instance (1, 3, 224, 224)"
            )
        self.input_shape = tuple(shape)

    def inputs_for(self, model: nn.Module, example_inputs: ExampleInputs | None = None) -> ExampleInputs:
        """A copy of the example inputs, or the default ones."""
        if example_inputs is None:
            return default_inputs(model, self.input_shape)
        return check_inputs(example_inputs)

    def trace(self, model: nn.Module, example_inputs: ExampleInputs | None = None) -> ModuleGraph:
        """Record the model in eval mode and in train mode, and analyse that. It comes out as it went in.

        Args:
            model: Any module.
            example_inputs: A tensor, a tuple of positional or a dict of keyword arguments; random images by default.

        Raises:
            ConfigError: If ``example_inputs`` holds no tensor.
            PrepareError: If the model has tensors without data (meta device).
            TraceError: If the model fails on its inputs.
        """
        for name, tensor in named_tensors_of(model):
            if tensor.is_meta:
                raise PrepareError(f"{name} is on the meta device and has no data; materialise the model first")
        inputs = self.inputs_for(model, example_inputs)
        with paused_gc(), unchanging(model):
            recording = self.record(model, inputs)
            return ModuleGraph(model, recording.program, recording.training, recording.training_error, self.attention)

    def record(self, model: nn.Module, inputs: ExampleInputs) -> Recording:
        """Record the model's operators in eval mode and in train mode.

        Raises:
            TraceError: If the model fails in eval mode.
        """
        raise NotImplementedError

    def replayable(self, graph: ModuleGraph, inputs: ExampleInputs) -> ModuleGraph:
        """A graph of the same model whose program can be run again: the one that was traced, or another tracer's."""
        return graph


@TRACERS.register()
class ForwardTracer(Tracer):
    """Runs the model once and follows where every channel goes, operator by operator.

    Args:
        input_shape: Shape of the random images that are used where no example inputs are given.
        attention: What may go of an attention: whole ``"heads"``, which changes nothing for the others; ``"dims"``, the
            same places in each of its heads; or ``"both"``, apart from each other.

    Raises:
        ConfigError: If ``input_shape`` isn't a sequence of positive integers, or ``attention`` isn't one of these.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> graph = ForwardTracer(input_shape=(1, 4)).trace(model)
        >>> [group.num_channels for group in graph.groups]
        [4, 8, 2]
    """

    def record(self, model: nn.Module, inputs: ExampleInputs) -> Recording:
        """Run the model in both modes under a dispatch mode that writes down every operator."""
        return record_modes(model, inputs)
