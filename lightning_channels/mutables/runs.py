"""Channels in runs: what is left of several units, one after the other, is a few stretches, not single channels."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

__all__ = ["Runs", "runs_of"]

_MOST = 256
"""Stretches, from which on there are too many of them to look for order."""


class Runs(NamedTuple):
    """Stretches of equally many channels at equal distances.

    Attributes:
        start: First channel of the first stretch.
        number: How many stretches there are.
        step: From the start of one to the start of the next.
        length: Channels in each.
    """

    start: int
    number: int
    step: int
    length: int


def runs_of(index: Tensor) -> tuple[Runs, ...]:
    """Channels as runs, in their order.

    Args:
        index: The channels, ascending and without duplicates, as a LongTensor on the CPU.

    Returns:
        The runs; none where there would be hundreds.

    Example:
        >>> import torch
        >>> runs_of(torch.tensor([0, 1, 2, 3, 8, 9, 12, 13, 16, 17]))
        (Runs(start=0, number=1, step=4, length=4), Runs(start=8, number=3, step=4, length=2))
    """
    jumps = (index[1:] - index[:-1] != 1).nonzero().flatten().tolist()
    if len(jumps) >= _MOST:
        return ()
    places = [0, *(jump + 1 for jump in jumps), index.numel()]
    found: list[Runs] = []
    for place, end in pairwise(places):
        start, length = int(index[place]), end - place
        last = found[-1] if found else None
        if last is not None and last.length == length:
            step = start - last.start - (last.number - 1) * last.step
            if last.number == 1 or step == last.step:
                found[-1] = Runs(last.start, last.number + 1, step, length)
                continue
        found.append(Runs(start, 1, length, length))
    return tuple(found)
