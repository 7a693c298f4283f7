"""The active part of a tensor as strided views, so that copying it takes a few large steps.

An operator that takes an index copies entry by entry along the inputs of a weight, or row by row. Measured on 64 of 128
x 448 of 896 weights that are kept in 27 runs of 16 and one of 32: to gather them took 26 us by index and 17 as two
blocks, to scatter them 76 and 17. Those of an attention's tiles, in one block each, took a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lightning_channels.dynamic_ops.slicing import PLAIN, Selections
from lightning_channels.mutables.selection import IndexSelection

__all__ = ["blocks"]

_ENTRIES = 8192
"""In a block, from which it takes less than an index does for as many."""


class _Block(NamedTuple):
    """Where the entries of a block are: in the full tensor, and in its active part."""

    size: tuple[int, ...]
    wide: tuple[int, ...]
    first: int
    narrow: tuple[int, ...]
    place: int


def blocks(full: Tensor, selections: Selections, part: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of a tensor, and of one for its active part, that hold the same entries.

    Args:
        full: All of it.
        selections: (dim, selection) pairs, a dim at most once.
        part: Of the size of what they select; its strides may be any.

    Returns:
        The pairs; none where copying by index is as fast, where two dims are selected by index, or where such views
        aren't allowed.
    """
    indices = [(dim, selection) for dim, selection in selections if isinstance(selection, IndexSelection)]
    if len(indices) != 1 or not _may(full) or not _may(part):
        return []
    ((dim, index),) = indices
    key = dim, part.shape, full.stride(), part.stride()
    known: tuple[_Block, ...] | None = index.layouts.get(key)
    if known is None:
        known = index.layouts[key] = tuple(_blocks(index, dim, part.shape, full.stride(), part.stride()))
    start, begin = full.storage_offset(), part.storage_offset()
    return [
        (full.as_strided(size, wide, first + start), part.as_strided(size, narrow, place + begin))
        for size, wide, first, narrow, place in known
    ]


def _may(tensor: Tensor) -> bool:
    return (
        type(tensor) in PLAIN
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.compiler.is_compiling()
    )


def _blocks(
    index: IndexSelection, dim: int, size: tuple[int, ...], wide: tuple[int, ...], narrow: tuple[int, ...]
) -> Iterator[_Block]:
    runs = index.runs
    if len(runs) * _ENTRIES > torch.Size(size).numel():
        return
    place = 0
    for start, number, step, length in runs:
        yield _Block(
            (*size[:dim], number, length, *size[dim + 1 :]),
            (*wide[:dim], step * wide[dim], *wide[dim:]),
            start * wide[dim],
            (*narrow[:dim], length * narrow[dim], *narrow[dim:]),
            place * narrow[dim],
        )
        place += number * length
