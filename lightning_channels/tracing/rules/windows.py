"""Operators that work plane by plane: pooling, resizing, windows. The last dims are mixed, the others pass."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lightning_channels.tracing.program import Op
from lightning_channels.tracing.rules.table import named, rule

if TYPE_CHECKING:
    from lightning_channels.tracing.walk import Walk

__all__: list[str] = []

_SPATIAL = "lies along a spatial dimension"


def _planes(walk: Walk, op: Op, spatial: int) -> None:
    source: Any = op.args[0]
    passed = walk.pin_along(op, source, range(-spatial, 0), _SPATIAL)
    walk.set_all(op, passed)


@rule(
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_bilinear2d",
    "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_lanczos2d_aa", "reflection_pad2d", "replication_pad2d",
    "adaptive_avg_pool2d", "mkldnn_max_pool2d", "mkldnn_adaptive_avg_pool2d",
)  # fmt: skip
def _planes_2d(walk: Walk, op: Op) -> None:
    _planes(walk, op, 2)


@rule(
    "max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d", "adaptive_max_pool3d", "upsample_trilinear3d",
    "upsample_nearest3d", "_upsample_nearest_exact3d", "reflection_pad3d", "replication_pad3d", "mkldnn_max_pool3d",
)  # fmt: skip
def _planes_3d(walk: Walk, op: Op) -> None:
    _planes(walk, op, 3)


@rule(
    "upsample_linear1d", "upsample_nearest1d", "_upsample_nearest_exact1d", "reflection_pad1d", "replication_pad1d",
    "avg_pool1d", "adaptive_avg_pool1d", "max_pool1d",
)  # fmt: skip
def _planes_1d(walk: Walk, op: Op) -> None:
    _planes(walk, op, 1)


@rule("fractional_max_pool2d", "fractional_max_pool3d")
def _fractional_pool(walk: Walk, op: Op) -> None:
    """Its random samples are one a channel, and have no spatial dims."""
    walk.pin_along(op, named(op, "random_samples"), range(3), "is a random number")
    _planes(walk, op, 3 if op.name.endswith("3d") else 2)


@rule("max_unpool2d", "max_unpool3d")
def _unpool(walk: Walk, op: Op) -> None:
    """Values and places of the same maximums."""
    spatial = 3 if op.name.endswith("3d") else 2
    operands = []
    for ref in op.args[:2]:
        shape = walk.shape(ref)
        maps = tuple(walk.pin_along(op, ref, range(-spatial, 0), _SPATIAL))
        operands.append((maps, (*shape[:-spatial], *[1] * spatial)))
    walk.set_all(op, walk.labels.meet(operands, walk.meets(op)))


@rule("grid_sampler_2d", "grid_sampler_3d", "_grid_sampler_2d_cpu_fallback", "cudnn_grid_sampler")
def _grid_sampler(walk: Walk, op: Op) -> None:
    """Images (N, C, …) at the places of a grid give (N, C, …)."""
    source, grid = op.args[:2]
    rank = len(walk.shape(source))
    walk.pin_along(op, grid, range(rank), "is a coordinate of a grid")
    walk.set_all(op, walk.pin_along(op, source, {*range(rank)} - {1}, _SPATIAL))


@rule("im2col")
def _im2col(walk: Walk, op: Op) -> None:
    """``(N, C, H, W)`` gives ``(N, C h w, places)``, the channel slowest."""
    source = op.args[0]
    window = math.prod(named(op, "kernel_size"))
    axis = len(walk.shape(source)) - 3
    maps = walk.pin_along(op, source, [-2, -1], _SPATIAL)
    maps = [m if m.shape[axis] == 1 else m.repeat_interleave(window, axis) for m in maps]
    walk.set_all(op, [m.squeeze(-1) for m in maps])


@rule("col2im")
def _col2im(walk: Walk, op: Op) -> None:
    """``(N, C h w, places)`` gives ``(N, C, H, W)``: the values of one channel's window stay or go together."""
    source = op.args[0]
    window = math.prod(named(op, "kernel_size"))
    axis = len(walk.shape(source)) - 2
    result = []
    for labels in walk.pin_along(op, source, [-1], _SPATIAL):
        if labels.shape[axis] > 1:
            rows = labels.unflatten(axis, (-1, window))
            first = rows.narrow(axis + 1, 0, 1)
            walk.labels.unite(rows, first)
            result.append(first)  # (…, C, 1, 1)
        else:
            result.append(labels.unsqueeze(-1))
    walk.set_all(op, result)


@rule("tril", "triu", "tril_", "triu_")
def _triangle(walk: Walk, op: Op) -> None:
    passed = walk.pin_along(op, op.args[0], [-2, -1], "lies along a dimension of a triangle")
    if not op.name.endswith("_"):
        walk.set_all(op, passed)


@rule("unfold", "unfold_copy")
def _unfold(walk: Walk, op: Op) -> None:
    """Windows along one dim, whose places become a new last dim."""
    passed = walk.pin_along(op, op.args[0], [named(op, "dimension")], "lies along a dimension that is cut in windows")
    walk.set_all(op, [m.unsqueeze(-1) for m in passed])


@rule("pixel_shuffle")
def _pixel_shuffle(walk: Walk, op: Op) -> None:
    """``(…, C r r, H, W)`` gives ``(…, C, H r, W r)``: what one channel's pixels come from stays or goes together."""
    squared = op.args[1] ** 2
    axis = len(walk.shape(op.args[0])) - 3
    result = []
    for labels in walk.pin_along(op, op.args[0], [-2, -1], _SPATIAL):
        if labels.shape[axis] > 1 and squared > 1:
            rows = labels.unflatten(axis, (-1, squared))
            walk.labels.unite(rows, rows.narrow(axis + 1, 0, 1))
            labels = rows.select(axis + 1, 0)
        result.append(labels)
    walk.set_all(op, result)


@rule("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(walk: Walk, op: Op) -> None:
    """Every group keeps the same places, or the shuffle would pair other ones."""
    groups = op.args[1]
    result = []
    for labels in walk.get(op.args[0]):
        if labels.shape[1] > 1:
            rows = labels.unflatten(1, (groups, -1))
            walk.labels.unite(rows, rows[:, :1])
            labels = torch.transpose(rows, 1, 2).flatten(1, 2)
        result.append(labels)
    walk.set_all(op, result)
