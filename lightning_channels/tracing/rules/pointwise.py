"""Operators that work element by element, and those that work plane by plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lightning_channels.tracing.labels import Maps, varying
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rules.table import rule, tag_rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__ = ["pad_left", "pointwise"]


def pad_left(maps: Maps, dims: int) -> Maps:
    """Maps as seen after broadcasting to ``dims`` dims."""
    return tuple(m.reshape((1,) * (dims - m.dim()) + tuple(m.shape)) for m in maps)


@rule(
    "_to_copy", "clone", "where", "native_dropout", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
    "bernoulli_", "copy_", "_prelu_kernel", "prelu", "hardswish", "hardswish_", "hardsigmoid_", "softplus", "mish",
    "celu", "masked_fill", "masked_fill_", "lerp", "addcmul", "addcdiv", "glu_jvp", "rrelu_with_noise",
)  # fmt: skip
def pointwise(walk: Walk, op: Op) -> None:
    """Labels that meet are one channel."""
    refs = op.inputs()
    dims = max(len(walk.shape(ref)) for ref in refs)
    operands = [_aligned(walk, ref, dims) for ref in refs]
    maps = walk.labels.meet(operands, walk.meets(op))
    for out in op.outputs:
        if out is not None and out not in refs:
            walk.set(out, maps)  # an in-place operator's result keeps the maps that it had: they were united


def _aligned(walk: Walk, ref: Ref, dims: int) -> tuple[Maps, tuple[int, ...]]:
    shape = walk.shape(ref)
    return pad_left(walk.get(ref), dims), (1,) * (dims - len(shape)) + tuple(shape)


@tag_rule(lambda func: torch.Tag.pointwise in func.tags)
def _pointwise_by_tag(walk: Walk, op: Op) -> None:
    pointwise(walk, op)


def _planes(walk: Walk, op: Op, spatial: int) -> None:
    """Pooling and resizing: the last ``spatial`` dims are mixed, the others pass."""
    source: Any = op.args[0]
    passed = []
    for labels in walk.get(source):
        if any(d >= labels.dim() - spatial for d in varying(labels)):
            walk.labels.pin(labels, walk.pin(op, "lies along a spatial dimension"))
        else:
            passed.append(labels)
    walk.set_all(op, passed)


@rule(
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_bilinear2d",
    "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "reflection_pad2d", "replication_pad2d", "adaptive_avg_pool2d", "mkldnn_max_pool2d",
)  # fmt: skip
def _planes_2d(walk: Walk, op: Op) -> None:
    _planes(walk, op, 2)


@rule(
    "max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d", "adaptive_max_pool3d", "upsample_trilinear3d",
    "upsample_nearest3d", "reflection_pad3d", "replication_pad3d",
)  # fmt: skip
def _planes_3d(walk: Walk, op: Op) -> None:
    _planes(walk, op, 3)


@rule("upsample_linear1d", "upsample_nearest1d", "reflection_pad1d", "replication_pad1d", "avg_pool1d")
def _planes_1d(walk: Walk, op: Op) -> None:
    _planes(walk, op, 1)
