"""The channels that the proof keeps: code that counts on any fixed number must come out wrong in one draw at least."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lightning_channels import SequentialMutableChannelUnit
from lightning_channels.mutators.proof.draws import make_draws

Change = Callable[[Tensor], Tensor]


def kept_of(channels: int, before: int) -> list[Tensor]:
    """What the draws keep of the last of several units."""
    units = [SequentialMutableChannelUnit(channels) for _ in range(before + 1)]
    return [draw.kept[id(units[-1])] for draw in make_draws(units)]


def notices(change: Change, channels: int, draws: list[Tensor]) -> bool:
    """Whether a change of order that counts on all channels differs from the same change of those that are kept."""
    full = change(torch.arange(channels))
    return any(change(kept).tolist() != full[torch.isin(full, kept)].tolist() for kept in draws)


@pytest.mark.parametrize("channels", [3, 4, 5, 6, 7, 8, 12, 16, 64, 1000])
@pytest.mark.parametrize("before", range(12))
def test_a_cut_at_any_number_is_noticed(channels: int, before: int) -> None:
    draws = kept_of(channels, before)
    for number in {1, 2, 3, 5, channels // 2, channels - 2, channels - 1}:
        if 0 < number < channels:
            cuts: list[Change] = [
                lambda x, n=number: torch.cat([x[n:], x[:n]]),
                lambda x, n=number: torch.cat([x[-n:], x[:-n]]),
                lambda x, n=number: x[:n],
                lambda x, n=number: x[n:],
                lambda x, n=number: x[-n:],
                lambda x, n=number: x.roll(n),
            ]
            for cut in cuts:
                assert notices(cut, channels, draws), number


@pytest.mark.parametrize("channels", [2, 3, 8, 100])
@pytest.mark.parametrize("wide", [False, True])
def test_draws_are_what_they_are_called(channels: int, wide: bool) -> None:
    unit = SequentialMutableChannelUnit(channels)
    any_, first, smallest = (draw.kept[id(unit)] for draw in make_draws([unit], wide))
    assert smallest.tolist() == [0]
    assert first.tolist() == list(range(len(first)))
    assert len(first) == len(any_) < channels
    assert len(set(any_.tolist())) == len(any_)
    assert 0 <= int(any_.min()) <= int(any_.max()) < channels
    assert not wide or len(any_) >= channels // 2
    assert 2 * len(any_) != channels or channels == 2
