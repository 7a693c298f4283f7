"""Which modules attend, in how many heads of what size, and which channels these are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lightning_channels.tracing.graph import ModuleGraph
from lightning_channels.tracing.labels import varying
from lightning_channels.tracing.program import Op, Ref
from lightning_channels.tracing.rules.attention import KERNELS
from lightning_channels.tracing.walk import Walk

__all__ = ["Attention", "find_attentions", "places_in_heads"]

_PRODUCTS = {"bmm": 0, "baddbmm": 1}
"""Operator → which argument holds the queries."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The queries of one attention.

    Attributes:
        module: Dotted name of the module that attends.
        heads: Number of heads.
        dims: Size of each.
        head_classes: The class of labels that decides about each head; ``None`` if nothing does.
        dim_classes: The class that decides about each place in the heads, likewise.
    """

    module: str
    heads: int
    dims: int
    head_classes: list[int] | None
    dim_classes: list[int] | None


def find_attentions(graph: ModuleGraph) -> list[Attention]:
    """The attentions of a traced model, one for each module that has any, in the order in which they run."""
    found: dict[str, Attention] = {}
    walk = graph.walk
    for op in walk.program.ops:
        queries = _queries(walk, op)
        if queries is not None and op.module not in found:
            attention = _attention(graph, op.module, queries)
            if attention is not None:
                found[op.module] = attention
    return list(found.values())


def places_in_heads(graph: ModuleGraph) -> set[int]:
    """The classes that decide about places in heads: of queries, of keys and of values."""
    found: set[int] = set()
    for op in graph.walk.program.ops:
        for operand in _operands(graph.walk, op):
            attention = _attention(graph, op.module, operand)
            if attention is not None and attention.heads > 1:
                found.update(attention.dim_classes or ())
    return found


def _queries(walk: Walk, op: Op) -> Ref | None:
    """What an operator multiplies with keys, if it does that."""
    return next(iter(_operands(walk, op)), None)


def _operands(walk: Walk, op: Op) -> list[Ref]:
    """Queries, keys and values of an operator that multiplies activations, as far as it has them."""
    if op.name in KERNELS:
        return list(op.args[:3])
    if op.name not in _PRODUCTS:
        return []
    first = _PRODUCTS[op.name]
    operands = op.args[first : first + 2]
    return [] if any(ref.id in walk.weights for ref in operands) else list(operands)


def _attention(graph: ModuleGraph, module: str, ref: Ref) -> Attention | None:
    """Heads and their places, from the labels of the queries, whose last two dims are tokens and places."""
    walk, shape = graph.walk, graph.walk.shape(ref)
    rank = len(shape)
    within = [
        (labels, dims) for labels in walk.maps.get(ref.id, ()) if (dims := set(varying(labels))) & {rank - 2, rank - 1}
    ]
    if not within:
        return None
    labels, dims = max(within, key=lambda entry: len(entry[1]))
    place = rank - 1 if rank - 1 in dims else rank - 2
    full = labels.expand([n if d < rank - 2 else labels.shape[d] for d, n in enumerate(shape)])
    rows = full.movedim(place, -1).reshape(-1, shape[place])
    rows = rows[_first_of_each(rows[:, 0])]
    attention = Attention(module, len(rows), shape[place], None, None)
    for classes in graph.classes_of(rows):
        if bool((classes == classes[:, :1]).all()):
            attention = replace(attention, head_classes=attention.head_classes or classes[:, 0].tolist())
        elif bool((classes == classes[:1]).all()):
            attention = replace(attention, dim_classes=attention.dim_classes or classes[0].tolist())
    return attention


def _first_of_each(values: Tensor) -> Tensor:
    """Where each distinct value stands first, in order."""
    distinct, place = values.unique(return_inverse=True)
    first = torch.full((len(distinct),), len(values)).scatter_reduce_(0, place, torch.arange(len(values)), "amin")
    return first.sort().values
