"""Walks a recorded program and lets the rules carry labels through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_channels.tracing.labels import Labels, Maps, Pin, varying
from lightning_channels.tracing.program import Op, Program, Ref
from lightning_channels.tracing.rules import RULES, TAG_RULES, Rule

__all__ = ["Cost", "Walk", "walk"]


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiply-accumulates of one operator at full width, for the batch of the example."""

    module: str
    macs: int


class Walk:
    """State of one walk: the labels of every tensor so far.

    Args:
        program: What is walked.
        other: Walk of another program of the same model, whose labels go on: what either says of a channel holds.

    Attributes:
        program: What is walked.
        labels: Collected edges, pins and so on.
        leaf_maps: Maps of the parameters and floating buffers, as they were at the start.
        costs: One for each contraction.
        unruled: (operator, module) of each operator without a rule, in order, once each.
        touched: Names of the leaves that some operator read.
        weights: References of the leaves and of what is computed from them alone.
    """

    def __init__(self, program: Program, other: Walk | None = None) -> None:
        self.program = program
        self.labels: Labels = Labels() if other is None else other.labels
        self.maps: dict[int, Maps] = {}
        self.costs: list[Cost] = []
        self.unruled: dict[tuple[str, str], None] = {}
        self.touched: set[str] = set()
        self.weights: set[int] = set(program.leaves)
        known = {} if other is None else {name: other.leaf_maps[ref] for ref, name in other.program.leaves.items()}
        self.leaf_maps: dict[int, Maps] = {
            ref: known[name] if name in known else self.labels.leaf(program.shapes[ref])
            for ref, name in program.leaves.items()
        }
        self.maps.update(self.leaf_maps)
        for ref in program.inputs:
            self.maps[ref] = ()

    def shape(self, ref: Ref) -> torch.Size:
        """Shape of a tensor."""
        return self.program.shapes[ref.id]

    def is_constant(self, ref: Ref) -> bool:
        """Whether a tensor was made in ``forward`` without the model's tensors or inputs."""
        return ref.id in self.program.constants and ref.id not in self.program.written

    def get(self, ref: Ref) -> Maps:
        """Maps of a tensor. A constant becomes a source of labels of its own at its first use."""
        if ref.id not in self.maps:
            is_source = ref.id in self.program.constants
            self.maps[ref.id] = self.labels.leaf(self.shape(ref)) if is_source else ()
        return self.maps[ref.id]

    def set(self, ref: Ref | None, maps: tuple[Tensor, ...] | list[Tensor]) -> None:
        """Give a result its maps; those that vary nowhere are left out."""
        if ref is not None:
            self.maps[ref.id] = tuple(m for m in maps if varying(m))

    def set_all(self, op: Op, maps: tuple[Tensor, ...] | list[Tensor]) -> None:
        """Give every result the same maps."""
        for ref in op.outputs:
            self.set(ref, maps)

    def pin(self, op: Op, reason: str) -> Pin:
        """A pin that says where it came from."""
        return Pin(reason, op.name, op.module)

    def meets(self, op: Op) -> Pin:
        """A pin for labels that meet a dim without labels in an operator."""
        is_input = any(ref.id in self.program.inputs for ref in op.inputs())
        return self.pin(op, "meets the model's input" if is_input else "meets a dimension without channels")

    def pin_inputs(self, op: Op, reason: str) -> None:
        """Pin every label that reaches an operator; its results carry none."""
        pin = self.pin(op, reason)
        for ref in op.inputs():
            if not self.is_constant(ref):
                for labels in self.get(ref):
                    self.labels.pin(labels, pin)
        self.set_all(op, ())

    def cost(self, op: Op, macs: int) -> None:
        """Record what a contraction costs at full width."""
        self.costs.append(Cost(op.module, macs))


def walk(program: Program, training: Program | None = None) -> Walk:
    """Carry labels through a program.

    Args:
        program: The forward pass in eval mode.
        training: The one in train mode, where it was recorded; what it says of labels holds as well.

    Returns:
        The walk of ``program``, with everything pinned that reaches an output, that no operator read, or that met an
        operator without a rule.
    """
    state = Walk(program)
    _follow(state)
    used = set(state.touched)
    if training is not None:
        other = Walk(training, state)
        _follow(other)
        used |= other.touched
        state.unruled |= other.unruled
    for ref_id, name in program.leaves.items():
        if name not in used:
            for labels in state.leaf_maps[ref_id]:
                state.labels.pin(labels, Pin(f"{name} is not used in the forward pass of the example input"))
    return state


def _follow(state: Walk) -> None:
    leaves = state.program.leaves
    for op in state.program.ops:
        inputs = [ref.id for ref in op.inputs() if not state.is_constant(ref)]
        state.touched.update(leaves[ref] for ref in inputs if ref in leaves)
        if all(ref in state.weights for ref in inputs):
            state.weights.update(out.id for out in op.outputs if out is not None)
        if not any(out is not None for out in op.outputs):
            state.pin_inputs(op, "its value is read by Python code")
            continue
        found = _rule(op)
        if found is None:
            state.unruled[(op.name, op.module)] = None
            state.pin_inputs(op, "reaches an operator without a rule")
        else:
            found(state, op)
    for ref_id in state.program.outputs:
        for labels in state.maps.get(ref_id, ()):
            state.labels.pin(labels, Pin("reaches the model's output"))


def _rule(op: Op) -> Rule | None:
    own = RULES.get(op.name)
    if own is not None:
        return own
    func: Any = op.func
    return next((found for test, found in TAG_RULES if test(func)), None)
