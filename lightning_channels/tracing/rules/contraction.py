"""Convolutions and matrix products: labels of contracted dims are united, those of the free dims pass on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_channels.tracing.labels import Maps, varying
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rewrites import first_output
from lightning_channels.tracing.rules.table import rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []

_ATTENTION, _CONVOLUTION, _MATMUL = 1, 3, 7  # order in which undecided conditions are decided
_PRODUCT = "a product of two activations runs over the channels"


def _matmul(walk: Walk, op: Op, a: Ref, b: Ref) -> list[Tensor]:
    """``(..., i, k) @ (..., k, j)`` with the same leading dims; the result's maps."""
    shape_a, shape_b = tuple(walk.shape(a)), tuple(walk.shape(b))
    batch = len(shape_a) - 2
    left = tuple(m.unsqueeze(-1) for m in walk.get(a))
    right = tuple(m.unsqueeze(batch) for m in walk.get(b))
    operands = [(left, (*shape_a, 1)), (right, (*shape_b[:batch], 1, *shape_b[batch:]))]
    weighted = a.id in walk.weights or b.id in walk.weights
    priority = _MATMUL if weighted else _ATTENTION
    _consume(walk, op, [(a, left), (b, right)], batch + 1)
    maps = walk.labels.meet(operands, walk.meets(op), priority)
    maps = walk.labels.end(maps, {batch + 1}, None if weighted else _PRODUCT, priority)
    return [m.squeeze(batch + 1) for m in maps]


def _consume(walk: Walk, op: Op, operands: list[tuple[Ref, Sequence[Tensor]]], dim: int) -> None:
    """Weights are read over ``dim``; zeros there take a channel out, as long as they are what the model holds."""
    for ref, maps in operands:
        if ref.id not in walk.weights:
            continue
        walk.consume(op, (m for m in maps if m.shape[dim] > 1))
        if ref.id in walk.computed:
            for labels in maps:
                walk.labels.mark_inexact(labels, "the weight that reads the channels is computed", {dim})


@rule("mm", "bmm")
def _mm(walk: Walk, op: Op) -> None:
    walk.set_all(op, _matmul(walk, op, op.args[0], op.args[1]))


@rule("addmm", "baddbmm")
def _addmm(walk: Walk, op: Op) -> None:
    bias, a, b = op.args[:3]
    maps = _matmul(walk, op, a, b)
    walk.set_all(op, _add_vector(walk, op, maps, bias))


def _add_vector(walk: Walk, op: Op, maps: list[Tensor], bias: Ref) -> list[Tensor]:
    out = op.outputs[0]
    assert out is not None
    rank = len(walk.shape(out))
    vector = tuple(m.reshape((1,) * (rank - m.dim()) + tuple(m.shape)) for m in walk.get(bias))
    shape = (1,) * (rank - len(walk.shape(bias))) + tuple(walk.shape(bias))
    return walk.labels.meet([(tuple(maps), tuple(walk.shape(out))), (vector, shape)], walk.meets(op))


@rule("mv", "addmv")
def _mv(walk: Walk, op: Op) -> None:
    """``(i, k) @ (k,)``."""
    a, b = op.args[-2:]
    operands = [(tuple(walk.get(a)), tuple(walk.shape(a))), (_row(walk, b), (1, *walk.shape(b)))]
    maps = [m[:, 0] for m in _product(walk, op, [a, b], operands, 1)]
    walk.set_all(op, maps if op.name == "mv" else _add_vector(walk, op, maps, op.args[0]))


def _row(walk: Walk, ref: Ref) -> Maps:
    return tuple(m.unsqueeze(0) for m in walk.get(ref))


@rule("dot", "vdot")
def _dot(walk: Walk, op: Op) -> None:
    a, b = op.args[:2]
    _product(walk, op, [a, b], [(tuple(walk.get(ref)), tuple(walk.shape(ref))) for ref in (a, b)], 0)
    walk.set_all(op, ())


def _product(
    walk: Walk, op: Op, refs: list[Ref], operands: list[tuple[Maps, tuple[int, ...]]], dim: int
) -> list[Tensor]:
    """Meet, and sum over ``dim``, which stays with size 1."""
    _consume(walk, op, [(ref, maps) for ref, (maps, _) in zip(refs, operands, strict=True)], dim)
    why = None if any(ref.id in walk.weights for ref in refs) else _PRODUCT
    return walk.labels.end(walk.labels.meet(operands, walk.meets(op)), {dim}, why)


@rule("outer", "ger")
def _outer(walk: Walk, op: Op) -> None:
    a, b = op.args[:2]
    walk.set_all(op, [*(m.unsqueeze(1) for m in walk.get(a)), *_row(walk, b)])


@rule("_grouped_mm", "_scaled_mm", "_scaled_grouped_mm", "_int_mm", "_trilinear", "addbmm", "addr")
def _fused_products(walk: Walk, op: Op) -> None:
    walk.pin_inputs(op, "reaches a product of matrices that cannot be followed")


@rule("linear")
def _linear(walk: Walk, op: Op) -> None:
    """Not decomposed on some backends."""
    x, weight = op.args[:2]
    rank = len(walk.shape(x))
    outputs, inputs = walk.shape(weight)
    left = tuple(m.unsqueeze(-1) for m in walk.get(x))
    right = tuple(m.t().reshape((1,) * (rank - 1) + tuple(m.t().shape)) for m in walk.get(weight))
    operands = [(left, (*walk.shape(x), 1)), (right, (1,) * (rank - 1) + (inputs, outputs))]
    _consume(walk, op, [(x, left), (weight, right)], rank - 1)
    why = None if x.id in walk.weights or weight.id in walk.weights else _PRODUCT
    maps = walk.labels.end(walk.labels.meet(operands, walk.meets(op), _MATMUL), {rank - 1}, why, _MATMUL)
    maps = [m.squeeze(rank - 1) for m in maps]
    bias = op.argument(2, "bias")
    walk.set_all(op, maps if bias is None else _add_vector(walk, op, maps, bias))


@rule("convolution")
def _convolution(walk: Walk, op: Op) -> None:
    """Joint space: (batch, group, output in the group, input in the group)."""
    x, weight, bias = op.args[:3]
    transposed, groups = op.args[6], op.args[8]
    out = first_output(op)
    channels, filters = walk.shape(x)[1], walk.shape(out)[1]
    inputs, outputs = channels // groups, filters // groups
    along: list[Tensor] = []
    source = []
    for m in walk.get(x):
        if any(d < 2 for d in varying(m)):  # a channel stays or goes with all of its places
            m = walk.labels.tie(m, [d for d in varying(m) if d >= 2])
        if not _spatial(walk, op, m, along):
            source.append(m.reshape(m.shape[0], *((groups, 1, inputs) if m.shape[1] > 1 else (1, 1, 1))))
    consumed, produced = _kernel(walk, op, weight, transposed, groups, inputs, outputs)
    _consume(walk, op, [(weight, consumed)], 3)
    if groups > 1:
        source = [_tie_groups(walk, m, inputs) for m in source]
        consumed = [_tie_groups(walk, m, inputs) for m in consumed]
        if inputs > 1:  # every group reads the same places and writes as many channels
            produced = [_tie_groups(walk, m, outputs) for m in produced]
        elif outputs > 1:  # one input channel a group: the group goes as a whole
            for m in produced:
                walk.labels.unite(m, m[:, :, :1])
            produced = [m[:, :, :1] for m in produced]
    rows = 1 if inputs > 1 else groups  # where one row stands for all groups, the group dim is as good as broadcast
    operands: list[tuple[Maps, tuple[int, ...]]] = [
        (tuple(source), (walk.shape(x)[0], rows, 1, inputs)),
        (tuple(consumed), (1, rows if any(m.shape[1] > 1 for m in consumed) else 1, 1, inputs)),
        (tuple(produced), (1, rows if any(m.shape[1] > 1 for m in produced) else 1, outputs, 1)),
    ]
    maps = walk.labels.meet(operands, walk.meets(op), _CONVOLUTION)
    maps = walk.labels.end(maps, {3}, None if weight.id in walk.weights else _PRODUCT, _CONVOLUTION)
    spatial = (1,) * (len(walk.shape(x)) - 2)
    result = []
    for m in maps:
        joint = (m.shape[0], groups, outputs)
        flat = m.squeeze(3).expand(joint).reshape(m.shape[0], filters) if m.shape[1:].numel() > 1 else m.reshape(-1, 1)
        result.append(flat.reshape(*flat.shape, *spatial))
    if bias is not None:
        vector = tuple(m.reshape(1, -1, *spatial) for m in walk.get(bias))
        operand = (vector, (1, filters, *spatial))
        result = walk.labels.meet([(tuple(result), tuple(walk.shape(out))), operand], walk.meets(op))
    walk.set(out, [*result, *along])


def _spatial(walk: Walk, op: Op, labels: Tensor, along: list[Tensor] | None = None) -> bool:
    """Whether labels lie along a spatial dim, where a kernel runs over them; they go on to ``along`` or are pinned.

    They go on where the result has a place for each place of the operand, as ECA's kernel over the channels has it.
    """
    dims = varying(labels)
    if not any(d >= 2 for d in dims):
        return False
    if along is not None and len(dims) == 1 and _keeps_places(walk, op, dims[0]):
        along.append(labels)
        if walk.shape(op.args[1])[dims[0]] > 1:
            walk.labels.mark_inexact(labels, "a kernel runs over the channels", dims)
    else:
        walk.labels.pin(labels, walk.pin(op, "lies along a spatial dimension"))
    return True


def _keeps_places(walk: Walk, op: Op, dim: int) -> bool:
    """Whether a convolution has stride 1 along a dim, and as many places before as after."""
    stride = op.args[3]
    return (
        not op.args[6]
        and stride[dim - 2 if len(stride) > 1 else 0] == 1
        and walk.shape(op.args[0])[dim] == walk.shape(first_output(op))[dim]
    )


def _kernel(
    walk: Walk, op: Op, weight: Ref, transposed: bool, groups: int, inputs: int, outputs: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The weight's maps in the joint space: those of its input side, and those of its output side."""
    consumed, produced = [], []
    for m in walk.get(weight):
        if _spatial(walk, op, m):
            continue
        if len(varying(m)) != 1:
            walk.labels.pin(m, walk.pin(op, "varies along two dimensions of a kernel"))
        elif varying(m) == (0,) and transposed:
            consumed.append(m.reshape(1, groups, 1, inputs))  # its inputs, group by group
        elif varying(m) == (1,) and transposed:
            produced.append(m.reshape(1, 1, outputs, 1))
        elif varying(m) == (0,):
            produced.append(m.reshape(1, groups, outputs, 1))
        else:
            consumed.append(m.reshape(1, 1, 1, inputs))
    return consumed, produced


def _tie_groups(walk: Walk, labels: Tensor, inside: int) -> Tensor:
    """Let every group keep the same places: one row of labels stands for all groups."""
    if labels.shape[1] == 1 or inside == 1:
        return labels
    walk.labels.unite(labels, labels[:, :1])
    return labels[:, :1]
