"""Walks a recorded program and lets the rules carry labels through it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor

from lightning_channels.tracing.labels import Labels, Maps, Pin, varying
from lightning_channels.tracing.program import Op, Program, Ref, refs_in
from lightning_channels.tracing.repetition import does_the_same
from lightning_channels.tracing.rewrites import operator_key
from lightning_channels.tracing.rules import OWN_RULES, Rule, rule_for
from lightning_channels.tracing.rules.pointwise import pointwise

__all__ = ["Walk", "walk", "written_ids"]


_KEEP_ZEROS = {
    "_unsafe_view", "reshape", "_to_copy", "clone", "mul", "mul_", "neg", "cat", "stack", "repeat", "flip", "roll",
    "constant_pad_nd", "contiguous", "index", "index_select",
}  # fmt: skip
"""Operators whose result is zero wherever an operand is, apart from views."""


class Walk:
    """State of one walk: the labels of every tensor so far.

    Args:
        program: What is walked.
        other: Walk of another program of the same model, whose labels go on: what either says of a channel holds.

    Attributes:
        program: What is walked.
        labels: Collected edges, pins and so on.
        leaf_maps: Maps of the parameters and floating buffers, as they were at the start.
        unruled: (operator, module) of each operator without a rule, in order, once each.
        touched: Names of the leaves that some operator read.
        weights: References of the leaves and of what is computed from them alone.
        computed: Those of ``weights`` that aren't zero wherever what they come from is.
        consumed: Labels that a weight is contracted over, that is to say read with: zeros at these places of the
            weights take the channels out of a model of full width. Both programs of a model share the list.
        repeated: Dims along which a tensor repeats one index only to fit the operands that it meets, by reference.
        training: Walk of the same model's program in train mode, where there is one.
        is_repetition: Whether the program does with labels what the other one does.
    """

    training: Walk | None = None
    is_repetition = False

    def __init__(self, program: Program, other: Walk | None = None) -> None:
        self.program = program
        self.labels: Labels = Labels() if other is None else other.labels
        self.maps: dict[int, Maps] = {}
        self.unruled: dict[tuple[str, str], None] = {}
        self.touched: set[str] = set()
        self.weights: set[int] = set(program.leaves)
        self.computed: set[int] = set()
        self.repeated: dict[int, set[int]] = {}
        self._uses: dict[int, list[Op]] | None = None
        self.consumed: list[Tensor] = [] if other is None else other.consumed
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

    def uses(self, ref: Ref) -> list[Op]:
        """The operators that read a tensor."""
        if self._uses is None:
            self._uses = {}
            for op in self.program.ops:
                for read in set(op.inputs()):
                    self._uses.setdefault(read.id, []).append(op)
        return self._uses.get(ref.id, [])

    @cached_property
    def _makers(self) -> dict[int, Op]:
        return {out.id: op for op in reversed(self.program.ops) for out in op.outputs if out is not None}

    def maker(self, ref: Ref) -> Op | None:
        """The operator that gave a tensor; ``None`` for one that was there before."""
        return self._makers.get(ref.id)

    @cached_property
    def written(self) -> set[int]:
        """References whose memory some operator writes into, be it through a view."""
        return written_ids(self.program)

    @cached_property
    def steps(self) -> list[tuple[Op, frozenset[int], tuple[int, ...], tuple[int, ...]]]:
        """Each operator with what it reads, what of that is needed no more, and what of its results is never read."""
        program, steps = self.program, list[tuple[Op, frozenset[int], tuple[int, ...], tuple[int, ...]]]()
        needed = set(program.outputs)
        for op in reversed(program.ops):
            used = frozenset([ref.id for ref in op.inputs()])
            unread = tuple([out.id for out in op.outputs if out is not None and out.id not in needed])
            steps.append((op, used, tuple(used - needed), unread))
            needed |= used
        return steps[::-1]

    def is_constant(self, ref: Ref) -> bool:
        """Whether a tensor was made in ``forward`` without the model's tensors or inputs."""
        return ref.id in self.program.constants and ref.id not in self.program.written

    def get(self, ref: Ref) -> Maps:
        """Maps of a tensor. A constant becomes a source of labels of its own at its first use."""
        if ref.id not in self.maps:
            is_source = ref.id in self.program.constants
            self.maps[ref.id] = self.labels.leaf(self.shape(ref)) if is_source else ()
        return self.maps[ref.id]

    def set(self, ref: Ref | None, maps: Iterable[Tensor]) -> None:
        """Give a result its maps; those that vary nowhere are left out.

        Raises:
            ValueError: If a map hasn't the result's shape, apart from dims of size 1.
        """
        if ref is None:
            return
        shape = self.shape(ref)
        kept = []
        for labels in maps:
            if labels.dim() != len(shape) or any(n not in (1, m) for n, m in zip(labels.shape, shape, strict=True)):
                raise ValueError(f"labels of shape {list(labels.shape)} don't fit a tensor of shape {list(shape)}")
            if labels.numel() > 1:
                kept.append(labels)
        self.maps[ref.id] = tuple(kept)

    def set_all(self, op: Op, maps: Iterable[Tensor]) -> None:
        """Give every result the same maps."""
        maps = tuple(maps)
        for ref in op.outputs:
            self.set(ref, maps)

    def pin(self, op: Op, reason: str) -> Pin:
        """A pin that says where it came from."""
        return Pin(reason, op.name, op.module, getattr(op, "line", ""))

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

    def pin_along(self, op: Op, ref: Ref, dims: Iterable[int], reason: str) -> list[Tensor]:
        """Pin what varies along some dims of a tensor alone; returns the tensor's other maps.

        What varies along other dims too goes on along these: its labels along the given dims are tied.
        """
        rank = len(self.shape(ref))
        mixed = {d % rank for d in dims} if rank else set()
        others = []
        for labels in self.get(ref):
            over = mixed & set(varying(labels))
            if over == set(varying(labels)):
                self.labels.pin(labels, self.pin(op, reason))
            else:
                others.append(self.labels.tie(labels, over) if over else labels)
        return others

    def passes(self, op: Op, *dims: int, reason: str = "lies along a dimension that the operator mixes") -> None:
        """The operator works on each index of ``dims`` of its first operand separately: labels go on along them.

        What varies along its other dims, and all other operands' labels, are pinned; so is everything where a result
        hasn't as many indices there.
        """
        source, *others = op.inputs()
        shape = self.shape(source)
        kept = {d % len(shape) for d in dims}
        results = [self.shape(out) for out in op.outputs if out is not None]
        if any(len(out) != len(shape) or any(out[d] != shape[d] for d in kept) for out in results):
            self.pin_inputs(op, "gives a result of another shape than its rule says")
            return
        passed = self.pin_along(op, source, set(range(len(shape))) - kept, reason)
        for ref in others:
            if not self.is_constant(ref):
                self.pin_along(op, ref, range(len(self.shape(ref))), reason)
        self.set_all(op, passed)

    def pointwise(self, op: Op) -> None:
        """The operands meet element by element, with broadcasting: labels that meet are one channel."""
        pointwise(self, op)

    def consume(self, op: Op, labels: Iterable[Tensor]) -> None:
        """Note the labels that a weight is contracted over."""
        self.consumed += [m.reshape(-1) for m in labels]


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
        other = state.training = Walk(training, state)
        if does_the_same(state, training):
            other.is_repetition = True
            other.maps, other.weights, other.computed = state.maps, state.weights, state.computed
            other.repeated, other.unruled = state.repeated, state.unruled
        else:
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
        if inputs and all(ref in state.weights for ref in inputs):
            made = [out.id for out in op.outputs if out is not None]
            state.weights.update(made)
            if any(ref in state.computed for ref in inputs) or not (op.func.is_view or op.name in _KEEP_ZEROS):
                state.computed.update(made)
        found = rule_for(op)
        if found is None and not any(out is not None for out in op.outputs):
            state.pin_inputs(op, "its value is read by Python code")
        elif found is None:
            state.unruled[(op.name, op.module)] = None
            state.pin_inputs(op, "reaches an operator without a rule")
        else:
            _apply(found, state, op)
    for ref_id in state.program.outputs:
        for labels in state.maps.get(ref_id, ()):
            state.labels.pin(labels, Pin("reaches the model's output"))


def _apply(found: Rule, state: Walk, op: Op) -> None:
    """Apply a rule; where one of ours fails, its operator is as good as one without."""
    try:
        found(state, op)
    except Exception as error:
        if operator_key(op.func) in OWN_RULES:
            raise
        state.unruled[(op.name, op.module)] = None
        detail = " ".join(str(error).split())[:120]
        state.pin_inputs(op, f"reaches an operator that its rule cannot follow: {type(error).__name__}: {detail}")


def written_ids(program: Program) -> set[int]:
    """References whose memory some operator writes into, be it through a view."""
    base: dict[int, int] = {}
    written: set[int] = set()
    for op in program.ops:
        refs = op.inputs()
        targets = list(_targets(op))
        written |= {base.get(ref.id, ref.id) for ref in targets}
        if refs and (op.func.is_view or targets or op.name.startswith(("_unsafe", "unsafe"))):
            for out in op.outputs:
                if out is not None and out.id != refs[0].id:
                    base[out.id] = base.get(refs[0].id, refs[0].id)
    return written | {ref for ref, of in base.items() if of in written}


def _targets(op: Op) -> Iterable[Ref]:
    """The tensors that an operator writes into."""
    if "batch_norm" in op.name:  # most of them update their running statistics without saying so in their schema
        yield from refs_in(op.args[3:5])
    if op.func._schema.is_mutable:
        for k, argument in enumerate(op.func._schema.arguments):
            if argument.is_write:
                yield from refs_in(op.argument(k, argument.name))
