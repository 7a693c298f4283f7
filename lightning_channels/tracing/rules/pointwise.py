"""Operators that work element by element, and those that work plane by plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_channels.tracing.labels import Maps
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rules.table import named, rule, tag_rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__ = ["aligned", "pad_left", "pointwise", "pointwise_by_tag"]


def pad_left(maps: Maps, dims: int) -> Maps:
    """Maps as seen after broadcasting to ``dims`` dims."""
    return tuple(m.reshape((1,) * (dims - m.dim()) + tuple(m.shape)) for m in maps)


@rule(
    "_to_copy", "clone", "where", "native_dropout", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
    "bernoulli_", "copy_", "_prelu_kernel", "prelu", "hardswish", "hardswish_", "hardsigmoid_", "softplus", "mish",
    "celu", "masked_fill", "masked_fill_", "lerp", "addcmul", "addcdiv", "glu_jvp", "rrelu_with_noise",
    "rrelu_with_noise_", "fill", "fill_", "zero", "zero_", "copy", "nan_to_num", "randn_like", "randint_like",
    "bernoulli", "normal_", "uniform_", "exponential_", "_fused_dropout", "gelu", "silu", "silu_", "elu", "elu_",
    "leaky_relu", "leaky_relu_", "hardtanh", "hardtanh_", "hardsigmoid", "threshold", "threshold_",
    "_masked_scale", "quantize_per_tensor", "dequantize", "fake_quantize_per_tensor_affine",
)  # fmt: skip
def pointwise(walk: Walk, op: Op) -> None:
    """Labels that meet are one channel."""
    refs = op.inputs()
    dims = max(len(walk.shape(ref)) for ref in refs)
    operands = [aligned(walk, ref, dims) for ref in refs]
    maps = walk.labels.meet(operands, walk.meets(op))
    for out in op.outputs:
        if out is not None and out not in refs:
            walk.set(out, maps)  # an in-place operator's result keeps the maps that it had: they were united


def aligned(walk: Walk, ref: Ref, dims: int) -> tuple[Maps, tuple[int, ...]]:
    """Maps and shape of a tensor as seen after broadcasting to ``dims`` dims."""
    repeated = walk.repeated.get(ref.id, ())
    shape = [1 if d in repeated else n for d, n in enumerate(walk.shape(ref))]
    return pad_left(walk.get(ref), dims), (1,) * (dims - len(shape)) + tuple(shape)


@tag_rule(lambda func: torch.Tag.pointwise in func.tags)
def pointwise_by_tag(walk: Walk, op: Op) -> None:
    """Operators that PyTorch itself calls pointwise."""
    pointwise(walk, op)


@rule("glu")
def _glu(walk: Walk, op: Op) -> None:
    """The first half times the sigmoid of the second: equal places of the halves stay or go together."""
    source = op.args[0]
    dim = named(op, "dim", -1) % len(walk.shape(source))
    result = []
    for labels in walk.get(source):
        if labels.shape[dim] > 1:
            first, second = labels.chunk(2, dim)
            walk.labels.unite(first, second)
            labels = first
        result.append(labels)
    walk.set_all(op, result)


@rule("_assert_tensor_metadata", "_assert_async", "_assert_scalar")
def _nothing(walk: Walk, op: Op) -> None:
    """Checks that give no result."""
