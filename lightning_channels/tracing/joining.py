"""Channels that can only change together because code reads the size of one tensor to shape another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_channels.tracing.borrowing import Borrowed
from lightning_channels.tracing.labels import varying
from lightning_channels.tracing.program import Ref
from lightning_channels.tracing.solver import Solution
from lightning_channels.tracing.torch_attention import torch_attentions
from lightning_channels.tracing.walk import Walk

__all__ = ["join"]


def join(model: nn.Module, walks: Sequence[Walk], solution: Solution, in_place: bool = False) -> bool:
    """Unite labels, place by place, where the number of one set of channels is that of another.

    Any pairing would do to keep the numbers equal. This one keeps whole heads together with as many neighbouring
    channels of what goes into an attention.

    Args:
        model: The traced model.
        walks: Of its programs.
        solution: Classes of the labels so far.
        in_place: Whether to leave channels that are all free in their order, so that those of an embedding are paired
            with heads and with the places in them alike.

    Returns:
        Whether labels were united, so that the classes must be found again.
    """
    labels, root = walks[0].labels, solution.root
    joined = False
    attentions = (pair for attention in torch_attentions(model, walks[0]) for pair in attention.joined())
    for rows, others in [*_borrowed(walks, root), *attentions]:
        a, b = root[rows.long()], root[others.long()]
        if bool((a == a[:1]).all()) or bool((b == b[:1]).all()) or _are_same(a, b):
            continue  # no channels lie along one of them after all, or the same ones along both
        joined = True
        if not (in_place and (_are_free(a) or _are_free(b))):
            rows, others = rows[_by_class(a)], others[_by_class(b)]
        if rows.shape[1] == others.shape[1] or 1 in (rows.shape[1], others.shape[1]):
            labels.unite(rows, others)
        else:
            labels.unite(rows, rows[:, :1])
            labels.unite(others, rows[:, :1])
    return joined


def _are_same(a: Tensor, b: Tensor) -> bool:
    """Whether two sets of channels are the same, in whatever order, so that their numbers are equal anyway."""
    if a.shape[1] != b.shape[1]:
        if bool((a != a[:, :1]).any()) or bool((b != b[:, :1]).any()):
            return False
        a, b = a[:, :1], b[:, :1]
    return torch.equal(a.sort(0).values, b.sort(0).values)


def _are_free(classes: Tensor) -> bool:
    return len(classes[:, 0].unique()) == len(classes)


def _by_class(classes: Tensor) -> Tensor:
    """The order of places in which those that go together stand together, so that few more have to."""
    return classes[:, 0].argsort(stable=True)


def _borrowed(walks: Sequence[Walk], root: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels of each place along a dim that was shaped, and along the one whose size it got: shapes (size, n)."""
    for walk in walks:
        for fact in dict.fromkeys(walk.program.borrowed):
            source = _rows(walk, fact.source, (fact.source_dim,), root)
            if source is None:
                continue
            target = _shaped(walk, fact, len(source), root)
            if target is not None and len(target) == len(source):
                yield target, source


def _shaped(walk: Walk, fact: Borrowed, size: int, root: Tensor) -> Tensor | None:
    """Labels of each place along what was shaped; where the size was divided, along two dims that are as many."""
    if not fact.part:
        return _rows(walk, fact.target, (fact.dim,), root)
    shape = walk.shape(Ref(fact.target))
    maps = walk.maps.get(fact.target, ())
    pairs = [
        (d, d + 1) for d in (fact.dim - 1, fact.dim) if 0 <= d < len(shape) - 1 and shape[d] * shape[d + 1] == size
    ]
    # by chance the batch makes as many too, but no channels lie along it
    pairs.sort(key=lambda pair: not any({d for d in pair if shape[d] > 1} <= set(varying(m)) for m in maps))
    return _rows(walk, fact.target, pairs[0], root) if pairs else None


def _rows(walk: Walk, ref: int, dims: tuple[int, ...], root: Tensor) -> Tensor | None:
    """Labels of each place along some neighbouring dims, shape (size, n); ``None`` without any.

    Of several sets of labels that lie there it is the one that tells most places apart.
    """
    shape = walk.shape(Ref(ref))
    size = math.prod(shape[d] for d in dims)
    found: list[Tensor] = []
    for labels in walk.maps.get(ref, ()):
        if set(dims) & set(varying(labels)):
            full = labels.expand([shape[d] if d in dims else n for d, n in enumerate(labels.shape)])
            found.append(full.movedim(dims, tuple(range(len(dims)))).reshape(size, -1))
    if len(found) > 1:
        found.sort(key=lambda rows: len(root[rows[:, 0].long()].unique()))
    return found[-1] if found else None
