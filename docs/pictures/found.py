"""What a picture is drawn from: the sides of each layer, which unit is on them, and which layer reads which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from lightning_channels import ChannelMutator, ForwardTracer, MutableChannelUnit

__all__ = ["Layer", "layers_of", "prepare", "wires_of"]


@dataclass(frozen=True)
class Layer:
    """A module with channels.

    Attributes:
        name: Its dotted name.
        kind: Class name of the plain module.
        inputs: Positions on its input side: (unit's index, whether the channel is active), in order.
        outputs: Likewise on its output side.
    """

    name: str
    kind: str
    inputs: tuple[tuple[int, bool], ...]
    outputs: tuple[tuple[int, bool], ...]

    @property
    def is_norm(self) -> bool:
        """Whether its two sides are the same channels."""
        return self.inputs == self.outputs and "Norm" in self.kind


def prepare(model: nn.Module, example: torch.Tensor) -> ChannelMutator:
    """Trace and prove, as a user does."""
    mutator = ChannelMutator("SequentialMutableChannelUnit")
    mutator.prepare_from_supernet(model, example)
    return mutator


def layers_of(mutator: ChannelMutator) -> list[Layer]:
    """Every module that has channels, in the order of ``named_modules``."""
    sides: dict[tuple[str, bool], dict[int, tuple[int, bool]]] = {}
    for number, unit in enumerate(mutator.units):
        for channel in unit.channels:
            side = sides.setdefault((channel.name, channel.is_output_channel), {})
            for place, index in enumerate(_indices(unit, channel.expand_ratio), channel.start):
                side[place] = (number, bool(unit.mutable_channel.current_mask[index]))
    layers = []
    for name, module in mutator.model.named_modules():
        inputs, outputs = (_ordered(sides.get((name, is_output), {})) for is_output in (False, True))
        if inputs or outputs:
            layers.append(Layer(name, type(module).__name__.removeprefix("Dynamic"), inputs, outputs))
    return layers


def _indices(unit: MutableChannelUnit, expand_ratio: int) -> list[int]:
    return [index for index in range(unit.num_channels) for _ in range(expand_ratio)]


def _ordered(side: dict[int, tuple[int, bool]]) -> tuple[tuple[int, bool], ...]:
    return tuple(side[place] for place in sorted(side))


def wires_of(model: nn.Module, example: torch.Tensor, names: list[str]) -> dict[tuple[str, str], str]:
    """(from, to) of the layers that read each other, from the operators that the tracer recorded.

    Returns:
        Each with the name of the operator in which the first meets others on its way; empty if it meets none.
    """
    program = ForwardTracer().trace(model, example).program
    sources: dict[int, dict[str, str]] = {}
    wires: dict[tuple[str, str], str] = {}
    for op in program.ops:
        read = [sources[ref.id] for ref in op.inputs() if sources.get(ref.id)]
        reads = {name: how or (op.name if len(read) > 1 else "") for found in read for name, how in found.items()}
        if op.module in names:
            wires |= {(source, op.module): how for source, how in reads.items() if source != op.module}
            reads = {op.module: ""}
        for out in op.outputs:
            if out is not None:
                sources[out.id] = reads
    return wires
