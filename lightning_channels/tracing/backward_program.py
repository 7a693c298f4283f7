"""Autograd nodes → the list of operators that rules carry labels through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_channels._modules import named_tensors_of
from lightning_channels.tracing.backward_missing import Missing, UnsizedError
from lightning_channels.tracing.backward_nodes import (
    Edge,
    Journal,
    in_order,
    is_leaf,
    line_of_node,
    number_of,
    shapes_of,
)
from lightning_channels.tracing.backward_ops import (
    OpaqueFunc,
    Signature,
    is_identity,
    name_of,
    saved_arguments,
    saved_places,
    signature_of,
)
from lightning_channels.tracing.backward_places import Origins
from lightning_channels.tracing.borrowing import Borrowed
from lightning_channels.tracing.program import Call, Op, Program, Ref
from lightning_channels.tracing.rules.table import tag_rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__ = ["translate"]

_BUFFERS = ("running_mean", "running_var")
_WRITES = "is written into a part of a tensor, which autograd's graph doesn't tell the place of"
_CUSTOM = "reaches a function that has a backward of its own"
_UNKNOWN = "reaches an operator that autograd's graph doesn't tell"
_WITHOUT = "meets a tensor of which autograd's graph doesn't tell the size"


def translate(
    model: nn.Module,
    journal: Journal,
    origins: Origins,
    inputs: Mapping[Any, Tensor],
    ends: Sequence[Edge],
    end: int,
) -> Program:
    """List the operators of a forward pass.

    Args:
        model: Its parameters and floating buffers become the program's leaves.
        journal: What was written down during the pass.
        origins: Knows which integers were computed in it.
        inputs: Node → the input tensor that comes from it.
        ends: Where the tensors that the pass is followed back from come from.
        end: Number of the first node that was made after the model returned: a loss is no part of it.
    """
    translation = _Translation(model, journal, origins, inputs)
    results = list(ends)
    for node in in_order(source for source, _ in ends):
        if number_of(node) >= end:
            results += [edge for edge in node.next_functions if edge[0] is not None]
        elif node not in inputs:
            translation.add(node)
    return translation.finish(results)


class _Translation:
    """Translates node by node.

    References are counted as the forward tracer counts them, so that the labels of the model's tensors are the same.
    """

    def __init__(self, model: nn.Module, journal: Journal, origins: Origins, inputs: Mapping[Any, Tensor]) -> None:
        self.program = Program(complete=False)  # numbers and constant operands are missing
        self._journal = journal
        self._origins = origins
        self._leaves: dict[int, Ref] = {}
        self._names: dict[str, Ref] = {}
        self._made: dict[Edge, Ref] = {}
        self._chosen: dict[int, Ref] = {}  # by their memory: places that an operator gave as its second result
        self._numbers: list[int] = []
        self._missing = Missing(self.program.shapes, self._unknown)
        for name, tensor in named_tensors_of(model):
            ref = self._new(tensor.shape)
            self._leaves[id(tensor)] = self._names[name] = ref
            if tensor.is_floating_point():
                self.program.leaves[ref.id] = name
            else:
                self.program.constants[ref.id] = tensor
        for node, tensor in inputs.items():
            ref = self._new(tensor.shape)
            self.program.inputs.append(ref.id)
            self._made[node, 0] = ref

    def _new(self, shape: Iterable[int]) -> Ref:
        ref = Ref(len(self.program.shapes))
        self.program.shapes[ref.id] = torch.Size(shape)
        return ref

    def _constant(self, value: Tensor) -> Ref:
        ref = self._new(value.shape)
        self.program.constants[ref.id] = value
        return ref

    def _unknown(self, shape: Iterable[int]) -> Ref:
        """A tensor of which only the shape is known: one that was made in ``forward``, from nothing that learns."""
        return self._constant(torch.zeros(()).expand(tuple(shape)))

    def _source(self, edge: Edge) -> Ref | None:
        node, _ = edge
        if node is None:
            return None
        if edge not in self._made and is_leaf(node):
            known = self._leaves.get(id(node.variable))
            self._made[edge] = self._constant(node.variable.detach()) if known is None else known
        return self._made.get(edge)

    # --- one node ----------------------------------------------------------------------------------------------------

    def add(self, node: Any) -> None:
        """Append a node's operator."""
        module = self._journal.module_of(node)
        shapes = shapes_of(node)
        sources = [self._source(edge) for edge in node.next_functions]
        func, arguments = self._operator(node, sources, shapes, module)
        outputs: list[Ref | None] = []
        for place, shape in enumerate(shapes):
            self._made[node, place] = ref = self._new(shape)
            outputs.append(ref)
        if not outputs:  # without a derivative there is nothing to know of the result
            outputs.append(self._new(()))
        outputs += [None] * (len(func._schema.returns) - len(outputs))
        places = saved_places(node) if outputs[1:] == [None] else None
        if places is not None:
            outputs[1] = self._chosen[_memory(places)] = self._new(places.shape)
        named = {argument.name for argument in func._schema.arguments if argument.kwarg_only}
        args = tuple(value for name, value in arguments.items() if name not in named)
        kwargs = {name: value for name, value in arguments.items() if name in named}
        self.program.ops.append(Op(func, args, kwargs, tuple(outputs), module, line_of_node(node)))
        self._numbers.append(number_of(node))

    def _operator(
        self, node: Any, sources: list[Ref | None], shapes: list[torch.Size], module: str
    ) -> tuple[Any, dict[str, Any]]:
        """What a node stands for and what it was called with; something opaque where that isn't known."""
        signature = None
        if any(
            ref is None and source is not None for ref, (source, _) in zip(sources, node.next_functions, strict=True)
        ):
            reason = _WITHOUT  # of operators without a derivative not even the result's shape is known
        elif name_of(node) == "CopySlices":
            reason = _WRITES
        elif isinstance(node, torch.autograd.function.BackwardCFunction):
            reason = _CUSTOM
        else:
            reason, signature = _UNKNOWN, signature_of(node)
        if signature is not None:
            try:
                arguments = self._arguments(node, signature, sources, shapes, module)
            except UnsizedError:
                reason = _WITHOUT
            else:
                first = sources[0]
                if first is not None and is_identity(signature, arguments, self.program.shapes[first.id]):
                    return torch.ops.aten.alias.default, {"self": first}
                return signature.func, arguments
        return OpaqueFunc(name_of(node), reason), {str(n): ref for n, ref in enumerate(sources) if ref is not None}

    def _arguments(
        self, node: Any, signature: Signature, sources: list[Ref | None], shapes: list[torch.Size], module: str
    ) -> dict[str, Any]:
        saved = saved_arguments(node, signature)
        operands = _dealt(signature, sources)
        found: dict[str, Any] = {}
        for argument in signature.func._schema.arguments:
            name = argument.name
            if name in operands:
                found[name] = operands[name]
            elif name in _BUFFERS:
                found[name] = self._statistics(module, name, operands)
            elif name in saved:
                found[name] = self._places(saved[name]) if name in signature.tensors else saved[name]
            elif name == "size":
                found[name] = list(shapes[0])
            else:
                found[name] = argument.default_value if argument.has_default_value() else None
        self._missing.fill(signature, found, shapes[0])
        return found

    def _statistics(self, module: str, name: str, operands: Mapping[str, Any]) -> Ref | None:
        """A batch norm's buffer, which no gradient reaches."""
        ref = self._names.get(f"{module}.{name}" if module else name)
        source = operands.get("input", operands.get("self"))
        if ref is None or source is None or self.program.shapes[ref.id] != self.program.shapes[source.id][1:2]:
            return None
        return ref

    def _places(self, value: Any) -> Any:
        """References in the place of tensors that name places: constants, or something that the model computes."""
        if isinstance(value, list):
            return [self._places(item) for item in value]
        if not isinstance(value, Tensor):
            return value
        if not self._origins.has(value):
            return self._constant(value)
        chosen = self._chosen.get(_memory(value))
        is_whole = chosen is not None and self.program.shapes[chosen.id] == value.shape
        return chosen if is_whole else self._new(value.shape)

    # --- the end -----------------------------------------------------------------------------------------------------

    def finish(self, results: Iterable[Edge]) -> Program:
        """The program, with its outputs and the module calls."""
        for edge in results:
            ref = self._made.get(edge) if edge in self._made or not is_leaf(edge[0]) else self._source(edge)
            if ref is not None and ref.id not in self.program.outputs:
                self.program.outputs.append(ref.id)
        for module, edges, number in self._journal.calls:
            refs = [None if edge is None else self._made.get(edge) for edge in edges]
            ended = sum(made < number for made in self._numbers)
            self.program.calls.append(Call(module, tuple(-1 if ref is None else ref.id for ref in refs), ended))
        self._borrow()
        return self.program

    def _borrow(self) -> None:
        for target, dim, source, source_dim, part in self._journal.sizes.found:
            shaped, read = self._made.get(target), self._source(source)
            if shaped is not None and read is not None:
                self.program.borrowed.append(Borrowed(shaped.id, dim, read.id, source_dim, part))


def _dealt(signature: Signature, sources: Sequence[Ref | None]) -> dict[str, Any]:
    """The differentiable operands by name; one of them may be a list."""
    names, listed = list(signature.edges), signature.list_of_edges
    if listed is None:
        return dict(zip(names, sources, strict=True))
    place = names.index(listed)
    after = len(names) - place - 1
    end = len(sources) - after
    rest = [*names[:place], *names[place + 1 :]]
    return {listed: list(sources[place:end]), **dict(zip(rest, [*sources[:place], *sources[end:]], strict=True))}


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@tag_rule(lambda func: isinstance(func, OpaqueFunc))
def _opaque(walk: Walk, op: Op) -> None:
    walk.unruled[(op.name, op.module)] = None
    walk.pin_inputs(op, op.func.reason)
