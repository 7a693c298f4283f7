"""Torchvision's operators on boxes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_channels.tracing.labels import varying
from lightning_channels.tracing.program import Op
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []


@rule("torchvision::roi_align", "torchvision::roi_pool")
def _roi_align(walk: Walk, op: Op) -> None:
    """Images (N, C, H, W) and boxes give (K, C, h, w)."""
    _crop(walk, op, 1)


@rule("torchvision::ps_roi_align", "torchvision::ps_roi_pool")
def _position_sensitive(walk: Walk, op: Op) -> None:
    """Each place of a box reads a channel of its own, C h w of them, and gives (K, C, h, w)."""
    _crop(walk, op, math.prod((named(op, "pooled_height"), named(op, "pooled_width"))))


def _crop(walk: Walk, op: Op, places: int) -> None:
    images, boxes = op.args[:2]
    walk.pin_along(op, boxes, range(2), "is a coordinate of boxes")
    maps = []
    for labels in walk.pin_along(op, images, (0, 2, 3), "lies along a dimension that boxes are cut from"):
        rows = labels.reshape(-1, places)
        walk.labels.unite(rows, rows[:, :1])
        maps.append(rows[:, 0].reshape(1, -1, 1, 1))
    for out in op.outputs:  # the others say which channel or place was read
        walk.set(out, [m for m in maps if out is not None and _fits(walk.shape(out), m)])


def _fits(shape: tuple[int, ...], labels: Tensor) -> bool:
    return len(shape) == labels.dim() and all(shape[d] == labels.shape[d] for d in varying(labels))


@rule("torchvision::nms", "torchvision::deform_conv2d", "torchvision::_deform_conv2d_backward")
def _boxes(walk: Walk, op: Op) -> None:
    walk.pin_inputs(op, f"reaches torchvision's {op.name}")
