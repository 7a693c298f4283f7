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
from lightning_channels.tracing.rules.table import rule, tag_rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__ = ["movement"]

_SHAPE_FREE = {"permute", "transpose", "t", "unsqueeze", "alias", "detach", "contiguous", "lift_fresh"}
"""These treat a dim of size 1 as any other, so the labels need not be expanded first."""


@rule(
    "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "view_copy", "unsafe_split",
    "unsafe_split_with_sizes", "roll", "flip", "repeat", "pixel_shuffle", "pixel_unshuffle", "index_select",
    "contiguous", "channel_shuffle", "native_channel_shuffle", "rot90", "lift_fresh", "expand_copy", "permute_copy",
    "unfold_copy",
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
        for k, moved in enumerate(_move(walk, op, source, labels, arguments)):
            if moved.numel() == 1:
                walk.labels.pin(moved, walk.pin(op, "a single index of it is picked out"))
                continue
            if len(varying(labels)) < len(varying(moved)):
                walk.labels.rectangle(moved, walk.pin(op, "is split into several dimensions"))
            results[k].append(moved)
    for out, maps in zip(op.outputs, results, strict=True):
        walk.set(out, maps)


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
    """``chunk`` divides what it gets into equal pieces, so equal places of the pieces stay or go together."""
    dim = op.argument(2, "dim", 0) % labels.dim()
    size = op.argument(1, "split_size")
    if labels.shape[dim] == 1 or not isinstance(size, int) or labels.shape[dim] % size:
        return
    rows = labels.movedim(dim, 0).reshape(len(pieces), size, -1)
    walk.labels.rectangle(compress(rows), walk.pin(op, "is cut into equal pieces"))


@rule("index")
def _index(walk: Walk, op: Op) -> None:
    movement(walk, op)


@rule("index_put", "index_put_", "scatter", "scatter_", "gather", "as_strided", "as_strided_")
def _unknown_places(walk: Walk, op: Op) -> None:
    source: Any = op.args[0]
    if op.name == "as_strided_" and list(op.args[1]) == list(walk.shape(source)):
        return  # some kernels use it to change the layout of their result
    walk.pin_inputs(op, "reaches an operator whose places cannot be followed")


@tag_rule(lambda func: bool(func.is_view) and func.overloadpacket.__name__ != "as_strided")
def _views(walk: Walk, op: Op) -> None:
    movement(walk, op)


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
