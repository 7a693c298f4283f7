"""Operators that write at places which tensors name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rules.indexing import NAMED, Indices, beside, block_of, pin_places, stand_ins
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []


@rule("index_put", "index_put_", "_unsafe_index_put", "_index_put_impl_")
def _index_put(walk: Walk, op: Op) -> None:
    """Values written at some places of some dims; along the other dims they meet what they are written into."""
    source, given, values = op.args[:3]
    known = [item is None or walk.is_constant(item) for item in given]
    whole = len(walk.shape(source))
    indices: Indices | None = None
    if all(known):
        constants = [None if item is None else walk.program.constants[item.id].cpu() for item in given]
        indices = []
        for item in constants:
            indices += list(item.nonzero(as_tuple=True)) if item is not None and item.dtype == torch.bool else [item]
        sizes = torch.broadcast_shapes(*(i.shape for i in indices if i is not None))
        indices = [None if i is None else torch.zeros((1,) * len(sizes), dtype=torch.long) for i in indices]
    else:
        dims = max(len(walk.shape(item)) for item in given if item is not None)
        if sum(item is not None for item in given) > 1 or dims == 1:
            found = stand_ins(walk, source, given, whole - sum(item is not None for item in given) + dims)
            indices = None if found is None else found[0]
    if indices is None or (walk.shape(values).numel() > 1 and not _aligned_values(walk, source, indices, values)):
        walk.pin_inputs(op, "is written to places that cannot be followed")
        return
    pin_places(walk, op, given)
    passed = walk.pin_along(op, source, [d for d, i in enumerate(indices) if i is not None], NAMED)
    block = block_of(indices)
    rank = next(i.dim() for i in indices if i is not None)
    moved = tuple(torch.ops.aten.index(m, indices) for m in passed)
    shape = list(torch.ops.aten.index(torch.zeros(1).expand(walk.shape(source)), indices).shape)
    shape[block : block + rank] = [1] * rank
    own = tuple(m.reshape((1,) * (len(shape) - m.dim()) + tuple(m.shape)) for m in walk.get(values))
    beside = [m for m in own if not any(d in range(block, block + rank) for d in range(m.dim()) if m.shape[d] > 1)]
    for labels in own:
        if not any(labels is m for m in beside):
            walk.labels.pin(labels, walk.pin(op, NAMED))
    given_shape = [1] * (len(shape) - len(walk.shape(values))) + list(walk.shape(values))
    given_shape[block : block + rank] = [1] * rank
    walk.labels.meet([(moved, tuple(shape)), (tuple(beside), tuple(given_shape))], walk.meets(op))
    if not op.name.endswith("_"):
        walk.set_all(op, passed)
    else:
        walk.set(source, passed)


def _aligned_values(walk: Walk, source: Ref, indices: Indices, values: Ref) -> bool:
    """Whether the values have at most the dims of what they are written to."""
    rank = next(i.dim() for i in indices if i is not None)
    covered = sum(i is not None for i in indices)
    return len(walk.shape(values)) <= len(walk.shape(source)) - covered + rank


def _tensors(op: Op, *names: str) -> list[Ref]:
    return [value for name in names if isinstance(value := named(op, name), Ref)]


@rule(
    "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_",
)  # fmt: skip
def _scatter(walk: Walk, op: Op) -> None:
    source, index = op.args[0], named(op, "index")
    rank = len(walk.shape(source))
    if rank == 0:
        walk.set_all(op, ())
        return
    dim = named(op, "dim") % rank
    refs = [source, *([] if walk.is_constant(index) else [index]), *_tensors(op, "src", "value")]
    refs = [ref for ref in refs if len(walk.shape(ref)) == rank]
    if walk.is_constant(index) and any(walk.shape(index)[d] != walk.shape(source)[d] for d in range(rank) if d != dim):
        walk.pin_inputs(op, "is written in part")
        return
    maps = beside(walk, op, refs, dim)
    _set_written(walk, op, maps)


def _set_written(walk: Walk, op: Op, maps: list[Tensor]) -> None:
    """An operator in place leaves its operand the maps that it had: they were united with the values'."""
    source = op.args[0]
    for out in op.outputs:
        if out is not None and out != source:
            walk.set(out, maps)


@rule("index_add", "index_add_", "index_copy", "index_copy_", "index_fill", "index_fill_", "index_reduce")
def _index_along(walk: Walk, op: Op) -> None:
    source, index = op.args[0], named(op, "index")
    rank = len(walk.shape(source))
    pin_places(walk, op, [index])
    refs = [source, *(ref for ref in _tensors(op, "source", "value") if len(walk.shape(ref)) == rank)]
    _set_written(walk, op, beside(walk, op, refs, named(op, "dim") % max(1, rank)))


def _everything(walk: Walk, op: Op) -> None:
    walk.pin_inputs(op, "reaches an operator whose places cannot be followed")


for _name in ("masked_scatter", "masked_scatter_", "masked_select", "nonzero", "take", "put", "put_", "unique_dim",
              "_unique2", "unique_consecutive"):  # fmt: skip
    rule(_name)(_everything)
