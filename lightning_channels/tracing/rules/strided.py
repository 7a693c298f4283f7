"""``as_strided``: a view that is told by where it lies in memory.

Where a tensor that was made in ``forward`` is written to through a view, how the view was made is not on record. What
it shows of its base follows from the strides of both, as long as it is a box of the base's indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_channels.tracing.labels import compress
from lightning_channels.tracing.program import Op
from lightning_channels.tracing.rewrites import kept_places, rewrite
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.replay import Replay
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []


@dataclass(slots=True)
class _Box:
    """A view of a box of a tensor.

    Attributes:
        places: Indices along each dim of the base: an int where the view has no dim for it.
        order: Dim of the base that each dim of the view is; ``None`` for one of size 1.
    """

    places: list[range | int]
    order: list[int | None]


def _decode(
    shape: Sequence[int], strides: Sequence[int], size: Sequence[int], stride: Sequence[int], offset: int
) -> _Box | None:
    """The box of a contiguous or permuted base that a view shows; ``None`` if it isn't one."""
    dims = sorted((d for d in range(len(shape)) if shape[d] > 1), key=lambda d: -strides[d])
    lengths = [strides[d] * shape[d] for d in dims]
    if any(strides[a] < length for a, length in zip(dims, lengths[1:], strict=False)):
        return None  # indices of the base overlap
    places: list[range | int] = [0] * len(shape)
    for d in dims:
        places[d], offset = divmod(offset, strides[d])
    if offset:
        return None
    order: list[int | None] = []
    for length, step in zip(size, stride, strict=True):
        # the dim with the largest stride that divides the step
        own = next((d for d in dims if step >= strides[d] and step % strides[d] == 0), None) if length > 1 else None
        order.append(own)
        if own is None:
            if length > 1:
                return None
            continue
        start = places[own]
        if not isinstance(start, int):
            return None
        shown = range(start, start + step // strides[own] * length, step // strides[own])
        if shown[-1] >= shape[own]:
            return None
        places[own] = shown
    return _Box(places, order)


def _box_of(walk: Walk, op: Op) -> _Box | None:
    base = walk.program.constants.get(op.args[0].id)
    if base is None:
        return None
    offset = named(op, "storage_offset")
    start = int(base.storage_offset())
    return _decode(base.shape, base.stride(), op.args[1], op.args[2], 0 if offset is None else int(offset) - start)


def _show(box: _Box, tensor: Tensor, places: Sequence[range | int | Tensor]) -> Tensor:
    """The view that a box gives of a tensor whose indices may be fewer than the base's."""
    for dim, chosen in enumerate(places):
        if isinstance(chosen, int):
            tensor = tensor.narrow(dim, chosen, 1)
        elif isinstance(chosen, range):
            tensor = tensor[(slice(None),) * dim + (slice(chosen.start, chosen.stop, chosen.step),)]
        elif len(chosen) and not torch.equal(chosen, torch.arange(int(chosen[0]), int(chosen[0]) + len(chosen))):
            raise IndexError("the places of a view that is written to don't lie side by side")
        else:
            tensor = tensor.narrow(dim, int(chosen[0]) if len(chosen) else 0, len(chosen))
    given = [d for d in box.order if d is not None]
    tensor = tensor.permute(*given, *(d for d in range(tensor.dim()) if d not in given))
    tensor = tensor.reshape(tensor.shape[: len(given)])  # the other dims have a single index
    for position, own in enumerate(box.order):
        if own is None:
            tensor = tensor.unsqueeze(position)
    return tensor


@rule("as_strided", "as_strided_", "as_strided_copy")
def _as_strided(walk: Walk, op: Op) -> None:
    source = op.args[0]
    if op.name == "as_strided_" and list(op.args[1]) == list(walk.shape(source)):
        return  # some kernels use it to change the layout of their result
    box = _box_of(walk, op) if op.name != "as_strided_" else None
    if box is None:
        walk.pin_inputs(op, "reaches an operator whose places cannot be followed")
        return
    maps = []
    for labels in walk.get(source):
        shown = compress(_show(box, labels.expand(walk.shape(source)), box.places))
        if shown.numel() == 1:
            walk.labels.pin(shown, walk.pin(op, "a single index of it is picked out"))
        maps.append(shown)
    walk.set_all(op, maps)


@rewrite("as_strided")
def _as_strided_narrow(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    box = _box_of(replay.walk, op)
    masks = [replay.mask(op.args[0], d) for d in range(args[0].dim())]
    if box is None:
        return op.func(*args, **kwargs)
    places: list[range | int | Tensor] = []
    for chosen, mask in zip(box.places, masks, strict=True):
        if mask is None:
            places.append(chosen)
        elif isinstance(chosen, int):
            places.append(int(mask[:chosen].sum()))
        else:
            places.append(kept_places(mask, torch.tensor(list(chosen))))
    return _show(box, args[0], places)


@rewrite("as_strided_")
def _restride(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0]  # only ever recorded as a change of layout, see the rule
