"""Operators that only move elements: the same operator is run on the labels.

Channel shuffle, window partition, splitting into heads and flattening before a linear layer all come out right with no
rule of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_channels.tracing.labels import compress, varying
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rewrites import UnsupportedReplayError, first_output, rewrite
from lightning_channels.tracing.rules.pointwise import pointwise, pointwise_by_tag
from lightning_channels.tracing.rules.table import named, rule, rule_for, tag_rule

if TYPE_CHECKING:
    from lightning_channels.tracing.replay import Replay
    from lightning_channels.tracing.walk import Walk

__all__ = ["movement"]

_SHAPE_FREE = {"permute", "transpose", "t", "unsqueeze", "alias", "detach", "contiguous", "lift_fresh"}
"""These treat a dim of size 1 as any other, so the labels need not be expanded first."""


@rule(
    "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy", "unsafe_split",
    "unsafe_split_with_sizes", "roll", "flip", "repeat", "pixel_unshuffle", "contiguous", "rot90", "lift_fresh",
    "lift", "expand_copy", "permute_copy", "unsqueeze_copy", "squeeze_copy", "transpose_copy", "t_copy", "select_copy",
    "slice_copy", "split_copy", "unbind_copy", "alias_copy", "detach_copy", "tile",
)  # fmt: skip
def movement(walk: Walk, op: Op) -> None:
    """Run the operator on each map of its first operand."""
    source: Ref = op.args[0]
    arguments = [_constant(walk, arg) for arg in op.args[1:]]
    if any(arg is None and given is not None for arg, given in zip(arguments, op.args[1:], strict=True)):
        walk.pin_inputs(op, "is indexed by a tensor that the model computes")
        return
    results: list[list[Tensor]] = [[] for _ in op.outputs]
    for labels in walk.get(source):
        try:
            pieces = _move(walk, op, source, _tied(walk, op, labels), arguments)
        except (RuntimeError, NotImplementedError, IndexError):  # labels are integers, with dims of size 1
            walk.pin_inputs(op, "cannot be followed")
            return
        for k, moved in enumerate(pieces):
            if moved.numel() == 1:
                walk.labels.pin(moved, walk.pin(op, "a single index of it is picked out"))
                continue
            if len(varying(labels)) < len(varying(moved)):
                walk.labels.rectangle(moved, walk.pin(op, "is split into several dimensions"))
            results[k].append(moved)
    for out, maps in zip(op.outputs, results, strict=True):
        walk.set(out, maps)


@rule("expand")
def _expand(walk: Walk, op: Op) -> None:
    """Where a norm is expanded to be divided by, its repeated dim is left as it was: one index that fits any number.

    What has no channels, such as a mask that is given, can be expanded to any number of them: of heads, say.
    """
    movement(walk, op)
    source, out = op.args[0], first_output(op)
    shape = walk.shape(out)
    before = (1,) * (len(shape) - len(walk.shape(source))) + tuple(walk.shape(source))
    dims = {d for d, n in enumerate(shape) if n > 1 and before[d] == 1}
    if dims and all(_broadcasts(walk, use, out, dims) for use in walk.uses(out)) and out.id not in walk.program.outputs:
        walk.repeated[out.id] = dims
    elif not walk.get(source):
        rank = len(shape)
        walk.set(out, [walk.labels.fresh([shape[d] if d == k else 1 for d in range(rank)]) for k in dims])


def _broadcasts(walk: Walk, use: Op, ref: Ref, dims: set[int]) -> bool:
    """Whether an operator would give the same if a tensor's repeated dims had size 1."""
    if rule_for(use) not in (pointwise, pointwise_by_tag):
        return False
    own = walk.shape(ref)
    return any(
        all(walk.shape(other)[d - len(own)] == own[d] for d in dims)
        for other in use.inputs()
        if other != ref and len(walk.shape(other)) >= len(own) and other.id not in walk.repeated
    )


def _constant(walk: Walk, arg: Any) -> Any:
    """An argument with references replaced by constants' values; ``None`` where a tensor's value isn't constant."""
    if isinstance(arg, Ref):
        return _value(walk, arg)
    if isinstance(arg, list) and any(isinstance(item, Ref) for item in arg):
        values = [_value(walk, item) if isinstance(item, Ref) else item for item in arg]
        known = all(value is not None or item is None for value, item in zip(values, arg, strict=True))
        return values if known else None
    return arg


def _value(walk: Walk, ref: Ref) -> Tensor | None:
    return walk.program.constants[ref.id].cpu() if walk.is_constant(ref) else None


def _tied(walk: Walk, op: Op, labels: Tensor) -> Tensor:
    """Where an operator takes a dim apart, none of its indices can go alone: they stay or go together."""
    if op.name in ("select", "unbind", "select_copy", "unbind_copy"):
        dim = named(op, "dim", 0) % labels.dim()
        if labels.shape[dim] > 1 and len(varying(labels)) > 1:
            walk.labels.unite(labels, labels.narrow(dim, 0, 1))
    return labels


def _move(walk: Walk, op: Op, source: Ref, labels: Tensor, arguments: list[Any]) -> list[Tensor]:
    """The map that each result gets from one map of the operand."""
    if op.name in _SHAPE_FREE:
        return [op.func(labels, *arguments, **op.kwargs)]
    full = labels.expand(walk.shape(source))
    if op.name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy"):
        out = op.outputs[0]
        assert out is not None
        moved: Any = full.reshape(walk.shape(out))  # expanded labels have strides that a view can't keep
    else:
        moved = op.func(full, *arguments, **op.kwargs)
    pieces = list(moved) if isinstance(moved, (list, tuple)) else [moved]
    if op.name in ("split", "unsafe_split") and len(pieces) > 1:
        _equal_pieces(walk, op, labels, pieces)
    return [compress(piece) for piece in pieces]


def _equal_pieces(walk: Walk, op: Op, labels: Tensor, pieces: list[Tensor]) -> None:
    """``chunk`` divides what it gets into equal pieces, so equal places of the pieces stay or go together.

    The last piece may be smaller. What it has no such places for goes with the first place: however much is kept,
    ``chunk`` cuts it at the same places, and as long as anything is kept of the last piece there are as many.
    """
    dim = op.argument(2, "dim", 0) % labels.dim()
    size = op.argument(1, "split_size")
    if labels.shape[dim] == 1 or not isinstance(size, int):
        return
    last = labels.shape[dim] - (len(pieces) - 1) * size
    if len(pieces) * (size - 1) >= labels.shape[dim]:
        return  # chunk would make smaller pieces
    along = labels.movedim(dim, 0).reshape(labels.shape[dim], -1)
    whole = along[: (len(pieces) - 1) * size].reshape(len(pieces) - 1, size, -1)
    pin = walk.pin(op, "is cut into equal pieces")
    rows = torch.cat([whole[:, :last], along[None, -last:]])
    if last < size:
        walk.labels.unite(whole[:, last:], whole[:1, :1])
    if last == 1 < size:
        walk.labels.unite(rows, rows[:1])
    else:
        walk.labels.rectangle(compress(rows), pin, whole=0)


@tag_rule(lambda func: bool(func.is_view) and func.namespace == "aten")
def _views(walk: Walk, op: Op) -> None:
    movement(walk, op)


@rule("diagonal", "diagonal_copy")
def _diagonal(walk: Walk, op: Op) -> None:
    """Two dims become one: what lies at the same place along both is one channel."""
    source = op.args[0]
    shape = walk.shape(source)
    dims = [named(op, "dim1", 0) % len(shape), named(op, "dim2", 1) % len(shape)]
    along = [[m for m in walk.get(source) if varying(m) == (dim,)] for dim in dims]
    rest = [d for d in range(len(shape)) if d not in dims]
    if named(op, "offset", 0) or not all(along) or shape[dims[0]] != shape[dims[1]]:
        along = [[], []]
        passed = walk.pin_along(op, source, dims, "lies along a diagonal")
    else:
        passed = [m for m in walk.get(source) if not any(m is own for own in (*along[0], *along[1]))]
        if any(set(varying(m)) & set(dims) for m in passed):
            walk.pin_inputs(op, "lies along a diagonal")
            return
    vectors = [m.reshape(-1) for own in along for m in own]
    for other in vectors[1:]:
        walk.labels.unite(vectors[0], other)
    maps = [m.permute(*rest, *dims)[..., 0] for m in passed]
    walk.set_all(op, maps + [v.reshape((1,) * len(rest) + (-1,)) for v in vectors[:1]])


@rule("slice_scatter", "select_scatter")
def _scatter_slice(walk: Walk, op: Op) -> None:
    """A tensor with another one in the place of a part, which keeps the same channels as what it replaces."""
    source, values = op.args[:2]
    shape = list(walk.shape(source))
    dim = named(op, "dim", 0) % len(shape)
    maps = walk.get(values)
    if op.name == "select_scatter":
        part = slice(named(op, "index") % shape[dim], named(op, "index") % shape[dim] + 1)
        maps = tuple(m.unsqueeze(dim) for m in maps)
    else:
        part = slice(*slice(named(op, "start"), named(op, "end"), named(op, "step", 1)).indices(shape[dim]))
    where = (slice(None),) * dim
    replaced = tuple(m if m.shape[dim] == 1 else m[(*where, part)] for m in walk.get(source))
    shape[dim] = len(range(shape[dim])[part])
    walk.labels.meet([(replaced, tuple(shape)), (maps, tuple(shape))], walk.meets(op))
    walk.set_all(op, walk.get(source))


@rewrite("slice_scatter", "select_scatter")
def _scatter_slice_narrow(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    dim = named(op, "dim", 0) % args[0].dim()
    mask = replay.mask(op.args[0], dim)
    if mask is None:
        return op.func(*args, **kwargs)
    if op.name == "select_scatter":
        return op.func(args[0], args[1], dim, int(mask[: named(op, "index") % len(mask)].sum()))
    start, end, step = slice(named(op, "start"), named(op, "end"), named(op, "step", 1)).indices(len(mask))
    if step != 1:
        raise UnsupportedReplayError(f"{op.name} in {op.module or 'the model'} writes channels with a step")
    return op.func(args[0], args[1], dim, int(mask[:start].sum()), int(mask[:end].sum()))


@rule("cat", "concat")
def _cat(walk: Walk, op: Op) -> None:
    out = op.outputs[0]
    assert out is not None
    refs = [ref for ref in op.args[0] if walk.shape(ref) != torch.Size([0])]
    dim = op.argument(1, "dim", 0) % len(walk.shape(out))
    _concatenate(walk, op, [(list(walk.get(ref)), tuple(walk.shape(ref))) for ref in refs], dim)


@rule("stack")
def _stack(walk: Walk, op: Op) -> None:
    out = op.outputs[0]
    assert out is not None
    dim = op.argument(1, "dim", 0) % len(walk.shape(out))
    parts = []
    for ref in op.args[0]:
        shape = list(walk.shape(ref))
        shape.insert(dim, 1)
        parts.append(([m.unsqueeze(dim) for m in walk.get(ref)], tuple(shape)))
    _concatenate(walk, op, parts, dim)


def _concatenate(walk: Walk, op: Op, parts: list[tuple[list[Tensor], tuple[int, ...]]], dim: int) -> None:
    """Labels along ``dim`` are laid end to end; labels along other dims meet."""
    across = []
    for maps, shape in parts:
        flat = tuple(m for m in maps if m.shape[dim] == 1)
        across.append((flat, tuple(1 if d == dim else n for d, n in enumerate(shape))))
    result = walk.labels.meet(across, walk.pin(op, "is concatenated with a tensor that has no channels there"))
    along = [[m for m in maps if m.shape[dim] > 1] for maps, _ in parts]
    if any(along):
        others = {d for maps in along for m in maps for d in varying(m)} - {dim}
        pieces = []
        for maps, (_, shape) in zip(along, parts, strict=True):
            target = [n if d == dim or d in others else 1 for d, n in enumerate(shape)]
            for extra in maps[1:]:
                walk.labels.pin(extra, walk.pin(op, "carries two sets of channels along the concatenated dimension"))
            pieces.append(maps[0].expand(target) if maps else torch.zeros(target, dtype=torch.int32))
        joined = torch.cat(pieces, dim)
        walk.labels.rectangle(joined, walk.pin(op, "is concatenated along two dimensions"))
        result.append(joined)
    walk.set_all(op, result)


@rule("constant_pad_nd")
def _pad(walk: Walk, op: Op) -> None:
    source, pad = op.args[0], list(op.args[1])
    result = []
    for labels in walk.get(source):
        own = list(pad)
        for k in range(len(own) // 2):
            if labels.shape[labels.dim() - 1 - k] == 1:
                own[2 * k] = own[2 * k + 1] = 0
        result.append(torch.constant_pad_nd(labels, own, 0) if any(own) else labels)
    walk.set_all(op, result)


@rule("embedding")
def _embedding(walk: Walk, op: Op) -> None:
    weight = op.args[0]
    out = op.outputs[0]
    assert out is not None
    result = []
    for labels in walk.get(weight):
        if varying(labels) == (1,):
            result.append(labels.reshape((1,) * (len(walk.shape(out)) - 1) + (-1,)))
        else:
            walk.labels.pin(labels, walk.pin(op, "rows of an embedding are looked up by number"))
    walk.set(out, result)
