"""Sums, means, norms and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_channels.tracing.labels import varying
from lightning_channels.tracing.program import Op
from lightning_channels.tracing.rules.table import rule, tag_rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__ = ["reduction"]

_DIM_ARGUMENT = {"linalg_vector_norm": 2, "norm": 2}


@rule("mean", "sum", "amax", "amin", "var", "var_mean", "std", "linalg_vector_norm", "norm", "logsumexp")
def reduction(walk: Walk, op: Op) -> None:
    """Labels of the reduced dims end; the others pass."""
    source = op.args[0]
    rank = len(walk.shape(source))
    dims = op.argument(_DIM_ARGUMENT.get(op.name, 1), "dim")
    if isinstance(dims, bool) or (op.name in ("var", "std") and op.func._overloadname == "default"):
        dims = None  # the overloads without dims have a flag in that place
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


@tag_rule(lambda func: torch.Tag.reduction in func.tags)
def _reduction_by_tag(walk: Walk, op: Op) -> None:
    reduction(walk, op)


@rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax")
def _softmax(walk: Walk, op: Op) -> None:
    source = op.args[0]
    dim = op.argument(1, "dim") % max(1, len(walk.shape(source)))
    for labels in walk.get(source):
        if dim in varying(labels):
            walk.labels.mark_inexact(labels, "softmax runs over the channels")
    walk.set_all(op, walk.get(source))
