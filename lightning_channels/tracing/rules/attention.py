"""Scaled dot products in one operator: two contractions with a softmax between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from lightning_channels.tracing.labels import compress, varying
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rewrites import rewrite
from lightning_channels.tracing.rules.pointwise import aligned
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.replay import Replay
    from lightning_channels.tracing.walk import Walk

__all__ = ["KERNELS"]

_PRIORITY = 1  # an undecided meet of heads and head size is decided for whole heads, before anything else
_PRODUCT = "a product of two activations runs over the channels"


KERNELS = (
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable", "_scaled_dot_product_attention_math",
)  # fmt: skip


@rule(*KERNELS)
def _attention(walk: Walk, op: Op) -> None:
    """Queries (…, L, E), keys (…, S, E) and values (…, S, V), with the same leading dims but for shared heads.

    Where channels go within a head the scores change, and with ``scale=None`` the scale as well: both make them
    inexact, as every product of two activations does. Whole heads are exact.
    """
    query, key, value = op.args[:3]
    queries = _Operand(walk.get(query), tuple(walk.shape(query)))
    keys, values = (_shared_heads(walk, ref, queries.shape) for ref in (key, value))
    rank = len(queries.shape)
    if named(op, "is_causal", False):  # who sees whom is a matter of places
        queries.maps = tuple(walk.pin_along(op, query, [rank - 2], "lies along the sequence of a causal attention"))
        keys.maps = tuple(walk.pin_along(op, key, [rank - 2], "lies along the sequence of a causal attention"))
    # scores: joint space (…, L, S, E)
    operands = [queries.insert(rank - 1), keys.insert(rank - 2)]
    scores = walk.labels.meet([(o.maps, o.shape) for o in operands], walk.meets(op), _PRIORITY)
    scores = [m.squeeze(rank) for m in walk.labels.end(scores, {rank}, _PRODUCT, _PRIORITY)]
    shape = (*queries.shape[:-1], keys.shape[-2])
    masks = [ref for name in ("attn_mask", "attn_bias", "dropout_mask") if isinstance(ref := named(op, name), Ref)]
    if masks:
        scores = walk.labels.meet(
            [(tuple(scores), shape), *(aligned(walk, ref, rank) for ref in masks)], walk.meets(op), _PRIORITY
        )
    for labels in scores:
        walk.labels.mark_inexact(labels, "softmax runs over the channels", {rank - 1})
    # results: joint space (…, L, S, V)
    weights = _Operand(tuple(scores), shape).insert(rank)
    seen = values.insert(rank - 2)
    maps = walk.labels.meet([(weights.maps, weights.shape), (seen.maps, seen.shape)], walk.meets(op), _PRIORITY)
    maps = walk.labels.end(maps, {rank - 1}, _PRODUCT, _PRIORITY)
    result, *others = op.outputs
    walk.set(result, [m.squeeze(rank - 1) for m in maps])
    rows = [m.squeeze(-1) for m in scores if m.shape[-1] == 1]
    for out in others:  # the logarithm of each row's sum, and random states
        if out is not None:
            walk.set(out, rows if tuple(walk.shape(out)) == shape[:-1] else ())


@rewrite(*KERNELS)
def _any_size(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The kernels take some head sizes only; where they refuse one, PyTorch chooses what takes it."""
    try:
        return op.func(*args, **kwargs)
    except RuntimeError:
        given = dict(zip((argument.name for argument in op.func._schema.arguments), args, strict=False)) | kwargs
        mask = given.get("attn_mask", given.get("attn_bias"))
        causal, scale = bool(given.get("is_causal", False)), given.get("scale")
        result = F.scaled_dot_product_attention(
            args[0], args[1], args[2], mask, is_causal=causal, scale=scale, enable_gqa=True
        )
        return (result, *(result.new_empty(0) for _ in op.outputs[1:]))


class _Operand:
    """Maps of a tensor, and its shape."""

    def __init__(self, maps: tuple[Tensor, ...], shape: tuple[int, ...]) -> None:
        self.maps, self.shape = maps, shape

    def insert(self, dim: int) -> _Operand:
        """With one more dim of size 1."""
        return _Operand(tuple(m.unsqueeze(dim) for m in self.maps), (*self.shape[:dim], 1, *self.shape[dim:]))


def _shared_heads(walk: Walk, ref: Ref, queries: tuple[int, ...]) -> _Operand:
    """Keys or values as the queries' heads see them: with grouped queries, several heads share one."""
    shape, heads = tuple(walk.shape(ref)), len(queries) - 3
    maps = tuple(walk.get(ref))
    if heads < 0 or shape[heads] in (1, queries[heads]):
        return _Operand(maps, shape)
    times = queries[heads] // shape[heads]
    shared = tuple(m if m.shape[heads] == 1 else m.repeat_interleave(times, heads) for m in maps)
    return _Operand(shared, (*shape[:heads], queries[heads], *shape[heads + 1 :]))


@rule("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "_transformer_decoder_only_layer_fwd")
def _fused_layer(walk: Walk, op: Op) -> None:
    walk.pin_inputs(op, "reaches a fused attention layer, which counts heads and channels by itself")


@rule("_cdist_forward", "_euclidean_dist")
def _distances(walk: Walk, op: Op) -> None:
    """Distances of all pairs: (…, P, M) and (…, R, M) with leading dims that broadcast give (…, P, R)."""
    dims = max(len(walk.shape(ref)) for ref in op.args[:2])
    (a, shape_a), (b, shape_b) = (aligned(walk, ref, dims) for ref in op.args[:2])
    left, right = _Operand(a, shape_a).insert(dims - 1), _Operand(b, shape_b).insert(dims - 2)
    maps = walk.labels.meet([(left.maps, left.shape), (right.maps, right.shape)], walk.meets(op))
    maps = walk.labels.end(maps, {dims}, "a distance runs over the channels")
    walk.set(op.outputs[0], [compress(m.squeeze(dims)) for m in maps if varying(m)])
