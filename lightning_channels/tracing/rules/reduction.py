"""Sums, means, norms and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_channels.tracing.program import Op
from lightning_channels.tracing.rules.table import named, rule, tag_rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__ = ["reduction"]


@rule(
    "mean", "sum", "amax", "amin", "var", "var_mean", "std", "std_mean", "linalg_vector_norm", "norm", "logsumexp",
    "prod", "any", "all", "nansum", "nanmean", "count_nonzero", "argmax", "argmin", "aminmax",
)  # fmt: skip
def reduction(walk: Walk, op: Op) -> None:
    """Labels of the reduced dims end; the others pass."""
    source = op.args[0]
    rank = len(walk.shape(source))
    dims = named(op, "dim")
    dims = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    reduced = {d % rank for d in dims} if rank else set()
    maps = walk.labels.end(walk.get(source), reduced, f"{op.name} runs over the channels")
    for out in op.outputs:
        if out is None:
            continue
        if len(walk.shape(out)) == rank:
            walk.set(out, maps)
        else:
            walk.set(out, [m.squeeze(tuple(reduced)) for m in maps])


@tag_rule(lambda func: torch.Tag.reduction in func.tags and func.namespace == "aten")
def _reduction_by_tag(walk: Walk, op: Op) -> None:
    reduction(walk, op)


@rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax")
def _softmax(walk: Walk, op: Op) -> None:
    source = op.args[0]
    dim = op.argument(1, "dim") % max(1, len(walk.shape(source)))
    for labels in walk.get(source):
        walk.labels.mark_inexact(labels, "softmax runs over the channels", {dim})
    walk.set_all(op, walk.get(source))


@rule("cumsum", "cumsum_", "cumprod", "cumprod_", "logcumsumexp", "cummax", "cummin")
def _cumulative(walk: Walk, op: Op) -> None:
    """Each place takes in all before it."""
    source = op.args[0]
    dim = named(op, "dim") % max(1, len(walk.shape(source)))
    for labels in walk.get(source):
        walk.labels.mark_inexact(labels, f"{op.name} runs over the channels", {dim})
    walk.set_all(op, walk.get(source))


@rule("_cummax_helper", "_cummin_helper", "_logcumsumexp")
def _cumulative_into(walk: Walk, op: Op) -> None:
    """The same, written into tensors that were made for it."""
    walk.pointwise(op)
    dim = named(op, "dim") % max(1, len(walk.shape(op.args[0])))
    for labels in walk.get(op.args[0]):
        walk.labels.mark_inexact(labels, f"{op.name} runs over the channels", {dim})


@rule("renorm", "renorm_", "embedding_renorm_")
def _renorm(walk: Walk, op: Op) -> None:
    """Scales what is too long: the rows of an embedding, or the indices of one dim."""
    source = op.args[0]
    rows = 0 if op.name == "embedding_renorm_" else named(op, "dim") % len(walk.shape(source))
    for labels in walk.get(source):
        walk.labels.mark_inexact(labels, "a norm runs over the channels", set(range(labels.dim())) - {rows})
    if op.name == "renorm":
        walk.set_all(op, walk.get(source))
