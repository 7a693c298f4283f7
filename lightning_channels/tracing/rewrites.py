"""How operators are called in a replay: integers that count or name channels are rewritten from the labels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from lightning_channels.tracing.program import Op, Ref

if TYPE_CHECKING:
    from lightning_channels.tracing.replay import Replay

__all__ = ["REWRITES", "Rewrite", "UnsupportedReplayError", "first_output", "kept_places", "operator_key", "rewrite"]


class UnsupportedReplayError(Exception):
    """An operator cannot be rewritten for fewer channels.

    Attributes:
        op: The operator.
    """

    def __init__(self, message: str, op: Op | None = None) -> None:
        super().__init__(message)
        self.op = op


Rewrite = Callable[["Replay", Op, list[Any], dict[str, Any]], Any]
"""Gets the replay, the operator and its arguments with tensors in place; returns what the operator would."""

F = TypeVar("F", bound=Rewrite)

REWRITES: dict[str, Rewrite] = {}


@functools.cache
def operator_key(func: Any) -> str:
    """What the tables know an operator by: ``"mm"`` for PyTorch's own, ``"mylib::my_op"`` for any other."""
    name = str(func.overloadpacket.__name__)
    return name if func.namespace == "aten" else f"{func.namespace}::{name}"


def rewrite(*names: str) -> Callable[[F], F]:
    """Register a rewrite for operators by their key, see :func:`operator_key`."""

    def decorate(function: F) -> F:
        for name in names:
            REWRITES[name] = function
        return function

    return decorate


def first_output(op: Op) -> Ref:
    """The reference of an operator's first result."""
    out = op.outputs[0]
    assert out is not None
    return out


@rewrite("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy")
def _reshape(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if op.func._overloadname == "dtype":
        return op.func(*args, **kwargs)
    return args[0].reshape(_reshaped(replay, op, args[0]))


def _reshaped(replay: Replay, op: Op, tensor: Tensor) -> list[int]:
    """The sizes of a view; where a dim's size depends on values (a number of boxes), the one that it has now."""
    out = first_output(op)
    sizes = replay.sizes(out)
    if tensor.numel() == math.prod(sizes):
        return sizes
    given = replay.sizes(op.args[0])
    differing = {n for n, now in zip(given, tensor.shape, strict=True) if n != now}
    free = [d for d, n in enumerate(sizes) if n in differing and replay.mask(out, d) is None]
    if len(free) != 1:
        raise UnsupportedReplayError(f"{op.name} in {op.module or 'the model'} depends on how many values were chosen")
    sizes[free[0]] = -1
    return sizes


@rewrite("expand", "expand_copy")
def _expand(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    out = first_output(op)
    repeated = replay.walk.repeated.get(out.id, ())
    return args[0].expand([1 if d in repeated else n for d, n in enumerate(replay.sizes(out))])


@rewrite("squeeze", "squeeze_copy")
def _squeeze(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A dim that is down to a single channel stays."""
    return args[0].reshape(replay.sizes(first_output(op)))


@rewrite("constant_pad_nd")
def _pad(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Padding that takes off channels takes off those of them that are left."""
    pad = list(args[1])
    for k in range(len(pad) // 2):
        dim = args[0].dim() - 1 - k
        mask = replay.mask(op.args[0], dim)
        for side in (0, 1):
            cut = -pad[2 * k + side]
            if cut > 0 and mask is not None:
                pad[2 * k + side] = -int((mask[-cut:] if side else mask[:cut]).sum())
    return op.func(args[0], pad, *args[2:], **kwargs)


@rewrite("split", "unsafe_split", "split_with_sizes", "unsafe_split_with_sizes")
def _split(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    dim = op.argument(2, "dim", 0) % args[0].dim()
    return args[0].split_with_sizes([replay.sizes(out)[dim] for out in op.outputs if out is not None], dim)


@rewrite("slice")
def _slice(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    dim = op.argument(1, "dim", 0) % args[0].dim()
    mask = replay.mask(op.args[0], dim)
    if mask is None:
        return op.func(*args, **kwargs)
    ends = slice(op.argument(2, "start"), op.argument(3, "end"), op.argument(4, "step", 1))
    chosen = kept_places(mask, torch.arange(*ends.indices(len(mask))))
    if ends.step == 1:
        return args[0].narrow(dim, int(chosen[0]) if len(chosen) else 0, len(chosen))
    return args[0].index_select(dim, chosen.to(args[0].device))


def kept_places(mask: Tensor, places: Tensor) -> Tensor:
    """Those of ``places`` that are left, numbered as they are then."""
    return (mask.cumsum(0) - 1)[places[mask[places]]]


@rewrite("select")
def _select(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    dim = op.argument(1, "dim") % args[0].dim()
    mask = replay.mask(op.args[0], dim)
    if mask is None:
        return op.func(*args, **kwargs)
    index = op.argument(2, "index") % len(mask)
    return args[0].select(dim, int(mask[:index].sum()))


@rewrite("native_layer_norm", "_fused_rms_norm")
def _norm(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    args[1] = replay.sizes(first_output(op))[-len(args[1]) :]
    return op.func(*args, **kwargs)


@rewrite("native_group_norm")
def _group_norm(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    batch, channels = args[0].shape[:2]
    if args[6] == args[4]:  # each channel is a group of its own
        args[6] = channels
    args[3:6] = batch, channels, args[0].numel() // max(1, batch * channels)
    return op.func(*args, **kwargs)


@rewrite("convolution")
def _convolution(replay: Replay, op: Op, args: list[Any], kwargs: dict[str, Any]) -> Any:
    channels = replay.program.shapes[op.args[0].id][1]
    if args[8] > 1 and channels == args[8]:
        args[8] = args[0].shape[1]
    return op.func(*args, **kwargs)
