"""Operators that read places: constants are followed, places that the model computes pin what they are places of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_channels.tracing.labels import Maps
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rewrites import UnsupportedReplayError, first_output, kept_places, rewrite
from lightning_channels.tracing.rules.movement import movement
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.replay import Replay
    from lightning_channels.tracing.walk import Walk

__all__ = ["NAMED", "Indices", "beside", "block_of", "pin_places", "stand_ins"]

NAMED = "lies along a dimension whose places are named by a tensor"
_PLACE = "is a place in another tensor"

Indices = list[Tensor | None]


# --- tensor[places] --------------------------------------------------------------------------------------------------


@rule("index", "_unsafe_index")
def _index(walk: Walk, op: Op) -> None:
    source, given = op.args[:2]
    if all(item is None or walk.is_constant(item) for item in given):
        movement(walk, op)
        return
    found = stand_ins(walk, source, given, len(walk.shape(first_output(op))))
    if found is None:
        walk.pin_inputs(op, "is indexed by tensors that the model computes")
        return
    indices, covered = found
    pin_places(walk, op, given)
    passed = walk.pin_along(op, source, covered, NAMED) if covered else list(walk.get(source))
    block = block_of(indices)
    shape = walk.shape(first_output(op))
    rank = next(i.dim() for i in indices if i is not None)
    maps = [torch.ops.aten.index(m, indices) for m in passed]  # every place along them has the same labels
    walk.set_all(op, [m for m in maps if all(m.shape[d] == 1 or m.shape[d] == shape[d] for d in range(m.dim()))])
    assert block + rank <= len(shape)


def stand_ins(walk: Walk, source: Ref, given: Sequence[Ref | None], rank: int) -> tuple[Indices, list[int]] | None:
    """Zeros of size 1 in the place of indices that aren't known, and the dims of the source that these are for.

    A tensor of truth values covers as many dims as it has, and leaves one. The rank of the result tells them apart.
    """
    refs = [item for item in given if item is not None]
    whole = len(walk.shape(source))
    dims = max(len(walk.shape(ref)) for ref in refs)
    indices: Indices = []
    if rank == whole - len(refs) + dims:
        zero = torch.zeros((1,) * dims, dtype=torch.long)
        indices = [None if item is None else zero for item in given]
    elif len(refs) == 1 and rank == whole - dims + 1:
        for item in given:
            indices += [None] if item is None else [torch.zeros(1, dtype=torch.long)] * dims
    else:
        return None
    return indices, [d for d, index in enumerate(indices) if index is not None]


def pin_places(walk: Walk, op: Op, given: Sequence[Ref | None]) -> None:
    """Pin the labels of tensors that name places."""
    for ref in given:
        if ref is not None and not walk.is_constant(ref):
            walk.pin_along(op, ref, range(len(walk.shape(ref))), _PLACE)


def block_of(indices: Sequence[Tensor | None]) -> int:
    """The first dim of the result that the indices make: theirs if they stand side by side, else the first."""
    covered = [d for d, index in enumerate(indices) if index is not None]
    return covered[0] if covered[-1] - covered[0] + 1 == len(covered) else 0


@rewrite("index", "_unsafe_index")
def _index_narrow(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Where the indexed dims got narrower, constant places are numbered anew."""
    source, given = op.args[:2]
    if not any(item is not None and replay.mask(source, d) is not None for d, item in enumerate(given)):
        return op.func(*args, **kwargs)
    indices: Indices = []
    for item in args[1]:
        indices += list(item.nonzero(as_tuple=True)) if item is not None and item.dtype == torch.bool else [item]
    out, block = first_output(op), block_of(indices)
    places = torch.broadcast_tensors(*(index for index in indices if index is not None))
    for dim in range(places[0].dim()):
        mask = replay.mask(out, block + dim)
        if mask is not None:
            chosen = mask.nonzero().flatten().to(places[0].device)
            places = tuple(index.index_select(dim, chosen) for index in places)
    covered = [d for d, index in enumerate(indices) if index is not None]
    for index, dim in zip(places, covered, strict=True):
        indices[dim] = _renumbered(op, index, replay.mask(source, dim))
    return op.func(args[0], indices)


def _renumbered(op: Op, places: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return places
    mask = mask.to(places.device)
    if not bool(mask[places].all()):
        raise UnsupportedReplayError(f"{op.name} in {op.module or 'the model'} reads channels that are gone")
    return (mask.cumsum(0) - 1)[places]


# --- along one dim ---------------------------------------------------------------------------------------------------


def beside(walk: Walk, op: Op, refs: Sequence[Ref], dim: int) -> list[Tensor]:
    """The tensors meet along all dims but ``dim``, where their labels are pinned."""
    operands: list[tuple[Maps, tuple[int, ...]]] = []
    for ref in refs:
        shape = list(walk.shape(ref))
        passed = tuple(walk.pin_along(op, ref, [dim], NAMED))
        shape[dim] = 1
        operands.append((passed, tuple(shape)))
    shapes = {shape for _, shape in operands}
    if len(shapes) > 1:  # only the first places of the larger ones are read
        for maps, _ in operands:
            for labels in maps:
                walk.labels.pin(labels, walk.pin(op, "is read in part"))
        return []
    return walk.labels.meet(operands, walk.meets(op))


@rule("gather")
def _gather(walk: Walk, op: Op) -> None:
    source, dim, index = op.args[:3]
    rank = len(walk.shape(source))
    if walk.is_constant(index):
        movement(walk, op)
    elif rank:
        walk.set_all(op, beside(walk, op, [source, index], dim % rank))


@rewrite("gather")
def _gather_narrow(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    source, dim, index = op.args[:3]
    rank = args[0].dim()
    if index.id not in replay.program.constants or not rank:
        return op.func(*args, **kwargs)
    places = replay.program.constants[index.id].to(args[0].device)
    for d in range(rank):
        mask = replay.mask(first_output(op), d)
        if mask is not None:
            places = places.index_select(d, mask.nonzero().flatten().to(places.device))
    return op.func(args[0], dim, _renumbered(op, places, replay.mask(source, dim % rank)), **kwargs)


@rule("index_select")
def _index_select(walk: Walk, op: Op) -> None:
    source, dim, index = op.args[:3]
    if walk.is_constant(index):
        movement(walk, op)
        return
    pin_places(walk, op, [index])
    walk.set_all(op, walk.pin_along(op, source, [dim], NAMED))


@rewrite("index_select", "roll")
def _moved_along(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Which places are read, of those that are left."""
    source: Ref = op.args[0]
    shape = replay.program.shapes[source.id]
    if op.name == "index_select":
        reads = {op.args[1] % max(1, len(shape)): args[2].cpu()}
    else:
        dims = list(named(op, "dims") or ())
        shifts = named(op, "shifts")
        reads = {}
        for dim, shift in zip(dims, shifts, strict=False):
            before = reads.get(dim % len(shape), torch.arange(shape[dim]))
            reads[dim % len(shape)] = before.roll(shift)
        if not dims and any(replay.mask(source, d) is not None for d in range(len(shape))):
            raise UnsupportedReplayError(f"{op.name} in {op.module or 'the model'} rolls over channels and places")
    if all(replay.mask(source, d) is None for d in reads) or not reads:
        return op.func(*args, **kwargs)
    result = args[0]
    for dim, places in reads.items():
        mask = replay.mask(source, dim)
        chosen = places if mask is None else kept_places(mask, places)
        result = result.index_select(dim, chosen.to(result.device))
    return result


# --- order -----------------------------------------------------------------------------------------------------------


@rule("sort", "topk", "argsort", "msort", "kthvalue", "median", "nanmedian", "mode")
def _sort(walk: Walk, op: Op) -> None:
    """The places along one dim change with the values; labels along the others pass."""
    source = op.args[0]
    rank = len(walk.shape(source))
    whole = op.func._overloadname == "default" and op.name in ("median", "nanmedian")
    dims = range(rank) if whole else [0 if op.name == "msort" else named(op, "dim", -1)]
    passed = walk.pin_along(op, source, dims, f"{op.name} runs along it")
    for out in op.outputs:
        if out is not None:
            kept = len(walk.shape(out)) == rank
            walk.set(out, passed if kept else [m.squeeze(tuple(d % rank for d in dims)) for m in passed])


@rule("searchsorted")
def _searchsorted(walk: Walk, op: Op) -> None:
    """The sequence is searched along its last dim; the values, one by one."""
    sequence, values = named(op, "sorted_sequence"), named(op, "self")
    walk.pin_along(op, sequence, range(len(walk.shape(sequence))), "is searched")
    if isinstance(values, Ref):
        whole = len(walk.shape(sequence)) == 1
        passed = list(walk.get(values)) if whole else walk.pin_along(op, values, range(len(walk.shape(values))), NAMED)
        walk.set_all(op, passed)


@rule("bucketize")
def _bucketize(walk: Walk, op: Op) -> None:
    values, boundaries = op.args[0], named(op, "boundaries")
    walk.pin_along(op, boundaries, [0], "is a boundary of buckets")
    walk.set_all(op, walk.get(values) if isinstance(values, Ref) else ())
