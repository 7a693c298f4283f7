"""Shape, strides and dtype of what an operator would return, without running it.

For the operators that every network consists of this is worked out here; for others PyTorch's own meta kernels tell,
which are right, and slow where they are written in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

__all__ = ["Layout", "contiguous", "elementwise", "layouts_of"]

Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]
"""Shape, strides and dtype."""

_SAME_DTYPE = {
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "exp", "sqrt", "rsqrt", "square", "relu", "relu6", "gelu", "silu",
    "mish", "elu", "celu", "selu", "leaky_relu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus",
    "clamp", "clamp_min", "clamp_max", "pow", "log_sigmoid", "maximum", "minimum", "addcmul", "lerp", "_prelu_kernel",
    "reciprocal", "sin", "cos", "erf", "log", "log1p", "expm1", "threshold",
}  # fmt: skip
"""Of operands of one floating dtype they make that dtype."""


def layouts_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The layouts of an operator's results, in the place of the tensors.

    Raises:
        Exception: Whatever a meta kernel raises: because there is none, or because the arguments don't fit.
    """
    own = _OWN.get(func.overloadpacket.__name__)
    found = None if own is None else own(func, args, kwargs)
    return _by_meta_kernel(func, args, kwargs) if found is None else found


def _by_meta_kernel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    def twin(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    result = func(*tree_map(twin, args), **tree_map(twin, kwargs))
    return tree_map(lambda out: _layout(out) if isinstance(out, Tensor) else out, result)


def _layout(tensor: Tensor) -> Layout:
    return tuple(tensor.shape), tensor.stride(), tensor.dtype


def contiguous(shape: Sequence[int], order: Iterable[int] | None = None) -> tuple[int, ...]:
    """Strides of a tensor without gaps; ``order`` has its dims from the slowest to the fastest."""
    strides = [1] * len(shape)
    step = 1
    for dim in reversed(range(len(shape)) if order is None else list(order)):
        strides[dim] = step
        step *= max(shape[dim], 1)
    return tuple(strides)


# --- memory formats --------------------------------------------------------------------------------------------------


_LAST = {4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
"""Dims in the order in which channels-last lays them out, by the number of dims."""


def _suggests_channels_last(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """What PyTorch's kernels ask a tensor before they choose the memory format of their result."""
    order = _LAST.get(len(shape))
    if order is None or strides[1] == 0:
        return False
    least = 0
    for dim in reversed(order):
        if shape[dim] == 0 or strides[dim] < least or (dim == 0 and least == strides[1]):
            return False
        least = strides[dim] * max(shape[dim], 1)
    return True


def _strides_like(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    return contiguous(shape, _LAST.get(len(shape)) if channels_last else None)


# --- operators -------------------------------------------------------------------------------------------------------

_Own = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
_OWN: dict[str, _Own] = {}
"""Operator → its results' layouts, or ``None`` where the meta kernel has to say (also what is wrong with them)."""


def _own(*names: str) -> Callable[[_Own], _Own]:
    def decorate(function: _Own) -> _Own:
        _OWN.update(dict.fromkeys(names, function))
        return function

    return decorate


@_own(*_SAME_DTYPE)
def _pointwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    tensors = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
    dtype = tensors[0].dtype
    if not dtype.is_floating_point or any(t.dtype != dtype for t in tensors[1:]) or func._schema.overload_name == "out":
        return None
    return (*elementwise(tensors), dtype)


def elementwise(tensors: Sequence[Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and strides of what comes out where tensors are combined element by element, with broadcasting."""
    first = tensors[0]
    shape = tuple(first.shape)
    if all(t.shape == first.shape for t in tensors):
        if all(t.is_contiguous() for t in tensors):
            return shape, contiguous(shape)
        if len(shape) == 4 and all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors):
            return shape, _strides_like(shape, channels_last=True)
    else:
        shape = tuple(torch.broadcast_shapes(*(t.shape for t in tensors)))
    strides = [_broadcast(t, shape) for t in tensors]
    if all(t.shape == first.shape and t.stride() == first.stride() for t in tensors) and _is_dense(shape, strides[0]):
        return shape, first.stride()
    return shape, contiguous(shape, _sorted_dims(shape, strides))


def _broadcast(tensor: Tensor, shape: Sequence[int]) -> list[int]:
    """Strides of a tensor after broadcasting, 0 along what is repeated."""
    missing = len(shape) - tensor.dim()
    own = zip(tensor.shape, tensor.stride(), shape[missing:], strict=True)
    return [0] * missing + [0 if size == 1 != wanted else stride for size, stride, wanted in own]


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    step = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size != 1):
        if stride != step:
            return False
        step *= size
    return True


def _sorted_dims(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> list[int]:
    """The dims from the slowest to the fastest, as the first operand that tells two of them apart has them."""
    order = list(reversed(range(len(shape))))
    for place in range(1, len(order)):
        moving = place
        for other in range(place - 1, -1, -1):
            compared = _compare(order[other], order[moving], shape, strides)
            if compared > 0:
                order[other], order[moving] = order[moving], order[other]
                moving = other
            elif compared < 0:
                break
    return order[::-1]


def _compare(a: int, b: int, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> int:
    for own in strides:
        if own[a] == 0 or own[b] == 0:
            continue
        if own[a] != own[b]:
            return -1 if own[a] < own[b] else 1
        if shape[a] > shape[b]:
            return 1
    return 0


@_own("convolution")
def _convolution(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    source, weight, _, stride, padding, dilation, transposed, output_padding, groups = args
    size, spatial = source.shape, source.dim() - 2
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if spatial < 1 or spatial > 3 or not source.dtype.is_floating_point or source.numel() == 0 or size[1] != channels:
        return None

    def at(values: Sequence[int], dim: int) -> int:
        return values[dim] if len(values) > 1 else values[0]

    shape = [size[0], weight.shape[1] * groups if transposed else weight.shape[0]]
    for k in range(spatial):
        reach = at(dilation, k) * (weight.shape[k + 2] - 1)
        if transposed:
            length = (size[k + 2] - 1) * at(stride, k) - 2 * at(padding, k) + reach + at(output_padding, k) + 1
        else:
            length = (size[k + 2] + 2 * at(padding, k) - reach - 1) // at(stride, k) + 1
        shape.append(length)
    if spatial == 1:  # runs as a two-dimensional one of height 1
        last = any(_suggests_channels_last(*_with_height(t)) for t in (source, weight))
        strides = list(_strides_like([*shape[:2], 1, shape[2]], last and source.dtype != torch.float64))
        return tuple(shape), (*strides[:2], strides[3]), source.dtype
    last = any(_suggests_channels_last(t.shape, t.stride()) for t in (source, weight))
    return tuple(shape), _strides_like(shape, last and source.dtype != torch.float64), source.dtype


def _with_height(tensor: Tensor) -> tuple[list[int], list[int]]:
    shape, strides = list(tensor.shape), list(tensor.stride())
    return [*shape[:2], 1, shape[2]], [*strides[:2], shape[2] * strides[2], strides[2]]


@_own("mm", "addmm", "bmm", "baddbmm")
def _product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    left, right = args[-2:] if isinstance(args[-1], Tensor) else (None, None)
    if not isinstance(left, Tensor) or not isinstance(right, Tensor) or func._schema.overload_name:
        return None
    shape = (*left.shape[:-1], right.shape[-1])
    if left.shape[-1] != right.shape[-2] or left.shape[:-2] != right.shape[:-2]:
        return None
    if len(args) == 3 and torch.broadcast_shapes(args[0].shape, shape) != shape:
        return None
    return shape, contiguous(shape), left.dtype


@_own("native_batch_norm")
def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source, training = args[0], args[5]
    shape = tuple(source.shape)
    if source.dtype not in (torch.float32, torch.float64) or len(shape) < 2 or func._schema.overload_name:
        return None
    if any(arg is not None and arg.shape != shape[1:2] for arg in args[1:5]):
        return None
    strides = _strides_like(shape, _suggests_channels_last(shape, source.stride()))
    statistics: Layout = ((shape[1],) if training else (0,), (1,), source.dtype)
    return (shape, strides, source.dtype), statistics, statistics


@_own("native_layer_norm")
def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source, count = args[0], len(args[1])
    shape = tuple(source.shape)
    if source.dtype not in (torch.float32, torch.float64) or func._schema.overload_name:
        return None
    own = shape[-count:]
    if tuple(args[1]) != own or any(arg is not None and arg.shape != own for arg in args[2:4]):
        return None
    rows = (*shape[: len(shape) - count], *(1,) * count)
    statistics: Layout = (rows, contiguous(rows), source.dtype)
    return (shape, contiguous(shape), source.dtype), statistics, statistics


@_own("_scaled_dot_product_flash_attention_for_cpu")
def _attention(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result is laid out as the query is; the statistics have the heads inside."""
    query, key, value = args[:3]
    shape = tuple(query.shape)
    if key.shape != value.shape or shape[:2] != key.shape[:2] or shape[3] != key.shape[3]:
        return None
    if not _is_dense(shape, query.stride()):
        return None
    statistics = torch.float64 if query.dtype == torch.float64 else torch.float32
    rows = shape[:3]
    return (shape, query.stride(), query.dtype), (rows, contiguous(rows, (0, 2, 1)), statistics)


@_own("cat")
def _cat(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    tensors = args[0]
    first = tensors[0]
    if func._schema.overload_name or not all(t.is_contiguous() and t.dtype == first.dtype for t in tensors):
        return None
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % max(first.dim(), 1)
    shapes = [tuple(t.shape) for t in tensors]
    before, after = shapes[0][:dim], shapes[0][dim + 1 :]
    if any(shape[:dim] != before or shape[dim + 1 :] != after for shape in shapes):
        return None
    shape = (*before, sum(shape[dim] for shape in shapes), *after)
    last = all(_suggests_channels_last(t.shape, t.stride()) for t in tensors)
    return shape, _strides_like(shape, last), first.dtype


@_own("mean", "sum", "amax", "amin")
def _reduction(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    source, dims = args[0], args[1] if len(args) > 1 else []
    if set(kwargs) - {"keepdim"} or not dims or not isinstance(dims, (list, tuple)) or not source.is_floating_point():
        return None
    rank = source.dim()
    gone = {dim % rank for dim in dims}
    keep = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    shape = tuple(1 if k in gone else size for k, size in enumerate(source.shape) if keep or k not in gone)
    return shape, contiguous(shape), source.dtype


@_own("clone", "_to_copy")
def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Layout | None:
    source = args[0]
    wanted = kwargs.get("memory_format")
    shape, dtype = tuple(source.shape), kwargs.get("dtype") or source.dtype
    if wanted is torch.contiguous_format:
        return shape, contiguous(shape), dtype
    if wanted in (None, torch.preserve_format) and _is_dense(shape, source.stride()):
        return shape, source.stride(), dtype
    return None
