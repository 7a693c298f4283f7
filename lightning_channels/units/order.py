"""In which order a unit's channels are kept, and which are the first n of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_channels._plain import is_int
from lightning_channels.errors import ChoiceError
from lightning_channels.mutables import IndexSelection
from lightning_channels.mutables.selection import from_index

__all__ = ["check_order", "first_of", "order_of"]

# what is made here outlives the block that it is made in
_durable = torch.inference_mode(False)


@_durable
def order_of(scores: Sequence[float] | Tensor, num_channels: int, groups: int, what: str) -> Tensor:
    """The places in a group by the sum of their scores over all groups, the highest first, of equals the first.

    Args:
        scores: One for each channel; larger is more important.
        num_channels: How many channels there are.
        groups: Into how many equal tiles they are split, which keep the same places.
        what: Whose scores, for messages.

    Raises:
        ChoiceError: If there are more or fewer scores, or one is no number.
    """
    try:
        given = torch.as_tensor(scores).detach().to("cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ChoiceError(f"{what} is ranked by a score for each channel, got {scores!r:.200}") from error
    if given.shape != (num_channels,) or given.is_complex():
        raise ChoiceError(
            f"{what} is ranked by {num_channels} scores, one for each channel; got a tensor of {tuple(given.shape)}, "
            f"{given.dtype}"
        )
    summed = given.to(torch.float64).reshape(groups, -1).sum(0)
    if bool(summed.isnan().any()):
        raise ChoiceError(f"{what} can't be ranked: the score of channel {int(summed.isnan().nonzero()[0])} is NaN")
    return summed.argsort(descending=True, stable=True)


@_durable
def check_order(order: object, inside: int, what: str) -> Tensor:
    """An order that was written down, checked to name each place in a group once.

    Raises:
        ChoiceError: If it doesn't.
    """
    if not isinstance(order, (list, tuple)) or len(order) != inside or not all(map(is_int, order)):
        shown = f"{len(order)} values" if isinstance(order, (list, tuple)) else repr(order)[:200]
        raise ChoiceError(f"the order of {what} must be a list of {inside} integers, got {shown}")
    if sorted(order) != list(range(inside)):
        raise ChoiceError(f"the order of {what} must name each of 0 to {inside - 1} once")
    return torch.tensor(order, dtype=torch.long, device="cpu")


@_durable
def first_of(order: Tensor | None, number: int, num_channels: int, groups: int) -> int | IndexSelection:
    """The first ``number`` channels of an order, in every group as many; in the order of their places without one."""
    if number == num_channels or (order is None and groups == 1):
        return number
    width, inside = num_channels // groups, number // groups
    places = torch.arange(inside, device="cpu") if order is None else order[:inside].sort().values
    index = (places + width * torch.arange(groups, device="cpu")[:, None]).flatten()
    selection = from_index(index, num_channels)
    return num_channels if selection is None else selection
