"""Normalisation: parameters and statistics belong to the channels that they scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from lightning_channels.tracing.labels import Maps, varying
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []


def _per_channel(walk: Walk, op: Op, parameters: list[Ref | None]) -> list[Maps]:
    """Unite the input's labels along dim 1 with those of vectors over the channels."""
    source = op.args[0]
    shape = walk.shape(source)
    spatial = (1,) * (len(shape) - 2)
    operands = [(walk.get(source), tuple(shape))]
    for ref in parameters:
        if ref is not None:
            vectors = tuple(m.reshape(1, -1, *spatial) for m in walk.get(ref))
            operands.append((vectors, (1, walk.shape(ref)[0], *spatial)))
    return [tuple(walk.labels.meet(operands, walk.meets(op)))]


@rule("_weight_norm_interface")
def _weight_norm(walk: Walk, op: Op) -> None:
    """A direction, divided by its norm over all dims but one, times a length."""
    direction, length = op.args[:2]
    dim = named(op, "dim", 0)
    for labels in walk.get(direction):
        walk.labels.mark_inexact(labels, "the norm of a weight runs over it", set(range(labels.dim())) - {dim})
    operands = [(walk.get(ref), tuple(walk.shape(ref))) for ref in (direction, length)]
    maps = walk.labels.meet(operands, walk.meets(op))
    walk.set(op.outputs[0], maps)
    walk.set(op.outputs[1], [m for m in maps if varying(m) == (dim,)])


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm",
    "_batch_norm_with_update", "_batch_norm_no_update", "_batch_norm_impl_index", "miopen_batch_norm",
    "_native_batch_norm_legit_functional", "batch_norm",
)  # fmt: skip
def _batch_norm(walk: Walk, op: Op) -> None:
    (maps,) = _per_channel(walk, op, [arg for arg in op.args[1:5] if isinstance(arg, Ref)])
    for labels in walk.get(op.args[0]):
        if set(varying(labels)) - {1}:
            dims = set(range(labels.dim())) - {1}
            walk.labels.mark_inexact(labels, "batch statistics run over it", dims)
    walk.set(op.outputs[0], maps)
    for out in op.outputs[1:]:
        walk.set(out, ())


@rule("native_group_norm")
def _group_norm(walk: Walk, op: Op) -> None:
    source, groups = op.args[0], op.args[6]
    for labels in walk.get(source):
        _mark_groups(walk, labels, groups)
        if 1 in varying(labels) and 1 < groups < labels.shape[1]:  # each group keeps as many: the same places of each
            rows = labels.movedim(1, 0).reshape(groups, labels.shape[1] // groups, -1)
            walk.labels.unite(rows, rows[:1])
    (maps,) = _per_channel(walk, op, [op.args[1], op.args[2]])
    walk.set(op.outputs[0], maps)
    for out in op.outputs[1:]:
        walk.set(out, ())


def _mark_groups(walk: Walk, labels: Tensor, groups: int) -> None:
    """A group norm runs over the channels of each group and over all spatial places."""
    channels = labels.shape[1]
    if channels > 1:
        rows = labels.reshape(labels.shape[0], groups, channels // groups, *labels.shape[2:])
    else:
        rows = labels.unsqueeze(1)
    walk.labels.mark_inexact(rows, "group norm runs over the channels", range(2, rows.dim()))


@rule("native_layer_norm", "_fused_rms_norm")
def _layer_norm(walk: Walk, op: Op) -> None:
    source, dims = op.args[0], len(op.args[1])
    rank = len(walk.shape(source))
    parameters = [ref for ref in op.args[2:4] if isinstance(ref, Ref)]
    for labels in walk.get(source):
        walk.labels.mark_inexact(labels, "layer norm runs over the channels", range(rank - dims, rank))
    operands = [(walk.get(source), tuple(walk.shape(source)))]
    for ref in parameters:
        maps = tuple(m.reshape((1,) * (rank - m.dim()) + tuple(m.shape)) for m in walk.get(ref))
        operands.append((maps, (1,) * (rank - dims) + tuple(walk.shape(ref))))
    walk.set(op.outputs[0], walk.labels.meet(operands, walk.meets(op)))
    for out in op.outputs[1:]:
        walk.set(out, ())
