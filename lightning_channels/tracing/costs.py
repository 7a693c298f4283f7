"""What operators cost: products of the sizes of their operands' and results' dims."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lightning_channels.tracing.program import Op, Program, Ref
from lightning_channels.tracing.rewrites import first_output
from lightning_channels.tracing.rules.attention import KERNELS

__all__ = ["CONTRACTIONS", "SHOWING", "Cost", "Dim", "activations", "macs"]

Dim = tuple[int, int]
"""A tensor's number, and which of its dims."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operator costs: the product of some sizes, as often as ``times``.

    Attributes:
        module: Dotted name of the module that ran it.
        times: A factor.
        dims: Whose sizes are multiplied.
    """

    module: str
    times: int
    dims: tuple[Dim, ...]

    def full(self, program: Program) -> int:
        """The cost at full width."""
        total = self.times
        for ref, dim in self.dims:
            total *= program.shapes[ref][dim]
        return total


SHOWING = {"_unsafe_view", "_reshape_alias", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}
"""They give the same memory, without saying so."""

_Products = Iterator[tuple[Dim, ...]]
CONTRACTIONS: dict[str, Callable[[Program, Op], _Products]] = {}
"""Operator → the sizes that are multiplied, once for each of its products."""


def _costs(*names: str) -> Callable[[Callable[[Program, Op], _Products]], Callable[[Program, Op], _Products]]:
    def decorate(function: Callable[[Program, Op], _Products]) -> Callable[[Program, Op], _Products]:
        CONTRACTIONS.update(dict.fromkeys(names, function))
        return function

    return decorate


def _all(program: Program, ref: Ref, but: Sequence[int] = ()) -> tuple[Dim, ...]:
    return tuple((ref.id, dim) for dim in range(len(program.shapes[ref.id])) if dim not in but)


@_costs("mm", "bmm")
def _product(program: Program, op: Op) -> _Products:
    a, b = op.args[:2]
    yield *_all(program, a), (b.id, -1)


@_costs("addmm", "baddbmm")
def _product_and_sum(program: Program, op: Op) -> _Products:
    a, b = op.args[1:3]
    yield *_all(program, a), (b.id, -1)


@_costs("linear")
def _linear(program: Program, op: Op) -> _Products:
    x, weight = op.args[:2]
    yield *_all(program, x), (weight.id, 0)


@_costs("convolution")
def _convolution(program: Program, op: Op) -> _Products:
    """Each place of the result (of the operand, if transposed) meets the whole kernel."""
    places: Ref = op.args[0] if op.args[6] else first_output(op)
    yield (*_all(program, places, but=[1]), *_all(program, op.args[1]))


@_costs(*KERNELS)
def _attention(program: Program, op: Op) -> _Products:
    query, key, value = op.args[:3]
    rank = len(program.shapes[query.id])
    rows = _all(program, query, but=[rank - 1])
    yield *rows, (key.id, -2), (query.id, -1)
    yield *rows, (key.id, -2), (value.id, -1)


def macs(program: Program) -> Iterator[Cost]:
    """The multiply-accumulates of each contraction, for the batch of the example: of what torch's counter counts."""
    for op in program.ops:
        if op.name in CONTRACTIONS:
            for dims in CONTRACTIONS[op.name](program, op):
                yield Cost(op.module, 1, dims)


def activations(program: Program) -> Iterator[Cost]:
    """The bytes of each floating tensor that an operator makes; what only shows or changes another makes none."""
    made = {*program.leaves, *program.inputs, *program.constants}
    for op in program.ops:
        for out in op.outputs:
            if out is None or out.id in made:
                continue
            made.add(out.id)
            dtype = program.dtypes[out.id]
            if dtype.is_floating_point and not op.func.is_view and op.name not in SHOWING:
                yield Cost(op.module, dtype.itemsize, _all(program, out))
