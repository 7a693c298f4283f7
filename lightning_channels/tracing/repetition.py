"""Whether a model does with labels in train mode what it does in eval mode, so that they need be followed only once.

That holds for most models: batch norm aside, the programs differ in the size of the batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_channels.tracing.program import Op, Program, Ref

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__ = ["does_the_same"]


def does_the_same(walk: Walk, program: Program) -> bool:
    """Compare a followed program with another one, whose example may be a larger batch.

    References are counted, so programs of the same operators have the same ones.

    Args:
        walk: The followed one.
        program: The other one.
    """
    own = walk.program
    if len(own.ops) != len(program.ops) or own.leaves != program.leaves:
        return False
    if (own.inputs, own.outputs, own.written) != (program.inputs, program.outputs, program.written):
        return False
    return (
        all(_same_operator(a, b) for a, b in zip(own.ops, program.ops, strict=True))
        and _same_constants(own, program)
        and _fits(walk, program)
    )


def _same_operator(a: Op, b: Op) -> bool:
    if a.func is not b.func or a.outputs != b.outputs or a.module != b.module:
        return False
    if "batch_norm" in a.name:  # all that differs is a flag
        return a.inputs() == b.inputs()
    return (a.args == b.args or _same(a.args, b.args)) and (a.kwargs == b.kwargs or _same(a.kwargs, b.kwargs))


def _same(a: Any, b: Any) -> bool:
    """Whether arguments are equal, but for the sizes in lists of sizes: shapes are compared apart."""
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(_same_item, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)


def _same_item(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list) and all(type(n) is int for n in (*a, *b)):
        return len(a) == len(b)
    return a == b if isinstance(a, Ref) else _same(a, b)


def _same_constants(own: Program, program: Program) -> bool:
    """Integers and masks are what indices may be made of; they must be equal."""
    if own.constants.keys() != program.constants.keys():
        return False
    for ref, value in own.constants.items():
        other = program.constants[ref]
        if other is value or value.is_floating_point() or value.is_complex():
            continue
        if value.dtype != other.dtype or not torch.equal(value, other):
            return False
    return True


def _fits(walk: Walk, program: Program) -> bool:
    """Whether shapes differ only in dims without labels."""
    shapes = walk.program.shapes
    if shapes.keys() != program.shapes.keys():
        return False
    for ref, shape in program.shapes.items():
        own = shapes[ref]
        if own == shape:
            continue
        if len(own) != len(shape):
            return False
        differing = [d for d, (n, m) in enumerate(zip(own, shape, strict=True)) if n != m]
        if any(labels.shape[d] > 1 for labels in walk.maps.get(ref, ()) for d in differing):
            return False
    return True
