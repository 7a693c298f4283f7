"""Running a model without computing anything large.

What is recorded are operators and shapes. So heavy operators aren't run: their results are memory of the right shape
and strides with nothing in it, a *stand-in*. Integers, masks and whatever is small and made of real values stay real,
because Python code or an index may depend on them. As soon as a value of a stand-in would matter, or an operator isn't
known to be harmless, :class:`ValuesNeededError` ends the attempt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_channels.tracing.layouts import layouts_of

__all__ = ["StandIns", "ValuesNeededError"]


class ValuesNeededError(BaseException):
    """The model has to be run with real values. No Exception: a model that expects some must not handle it."""


_SMALL = 2**14
"""Up to this many elements, what is made of real values is computed."""

_HEAVY = {
    "convolution", "mm", "addmm", "bmm", "baddbmm", "native_batch_norm", "native_layer_norm", "native_group_norm",
    "_fused_rms_norm", "_scaled_dot_product_flash_attention_for_cpu", "max_pool2d_with_indices", "avg_pool2d",
    "_adaptive_avg_pool2d", "max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d", "mkldnn_max_pool2d",
}  # fmt: skip
_LIGHT = {
    "cat", "stack", "clone", "_to_copy", "mean", "sum", "amax", "amin", "var", "var_mean", "std", "linalg_vector_norm",
    "norm", "logsumexp", "max", "min", "argmax", "argmin", "topk", "sort", "cumsum", "cumprod", "_softmax",
    "_log_softmax", "_safe_softmax", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll", "flip", "repeat", "pixel_shuffle",
    "pixel_unshuffle", "native_channel_shuffle", "tril", "triu", "glu", "im2col", "col2im", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "grid_sampler_2d", "grid_sampler_3d", "hardswish", "hardsigmoid", "softplus", "_prelu_kernel", "masked_fill",
    "mish", "celu", "_weight_norm_interface", "addmv", "mv", "dot", "where", "lerp", "unfold_copy",
}  # fmt: skip
_INDEXED = {"index", "index_select", "embedding", "gather", "take_along_dim"}
_FILLED = {"zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_full", "new_empty",
           "new_empty_strided"}  # fmt: skip
_MOVED = {"_unsafe_view", "as_strided_", "detach", "alias", "lift", "lift_fresh", "reshape", "_reshape_alias", "view"}
_WRITTEN = {"copy_", "zero_", "fill_", "hardswish_", "hardsigmoid_", "silu_", "mish_", "masked_fill_", "index_put_"}

_KINDS: dict[Any, str] = {}


def _kind(func: Any) -> str:
    """What may be done instead of running an operator; each overload is looked at once."""
    if func not in _KINDS:
        _KINDS[func] = _classify(func, func.overloadpacket.__name__)
    return _KINDS[func]


def _classify(func: Any, name: str) -> str:
    schema = func._schema
    if func.namespace != "aten" or schema.overload_name.endswith("out"):
        return "unknown"
    if name in _HEAVY:
        return "heavy"
    if name in _FILLED:
        return "filled"
    if func.is_view or name in _MOVED:
        return "moved"
    if schema.is_mutable:
        return "written" if name in _WRITTEN or (name[-1] == "_" and torch.Tag.pointwise in func.tags) else "unknown"
    if name in _INDEXED:
        return "indexed"
    return "light" if name in _LIGHT or torch.Tag.pointwise in func.tags else "unknown"


class StandIns:
    """Runs operators, or makes stand-ins for their results.

    The layouts of results are kept, by the operator and the layouts of its arguments: networks repeat themselves.
    """

    def __init__(self) -> None:
        self._layouts: dict[Any, Any] = {}

    def run(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor], is_real: list[bool]
    ) -> tuple[Any, bool]:
        """The results of an operator.

        Args:
            func: The operator.
            args: Its arguments.
            kwargs: Its keyword arguments.
            tensors: The tensors among these.
            is_real: Of each of them, whether it has values.

        Returns:
            What it returns, and whether that has values.

        Raises:
            ValuesNeededError: If values would be read that aren't there.
        """
        kind = _kind(func)
        if all(is_real):
            large = kind == "light" and tensors[0].is_floating_point() and any(t.numel() > _SMALL for t in tensors)
            if kind != "heavy" and not large:
                return func(*args, **kwargs), True
        elif kind == "moved":
            return func(*args, **kwargs), is_real[0]
        elif kind == "written":
            if is_real[0] or not all(_fits(tensor, args[0]) for tensor in tensors[1:]):
                raise ValuesNeededError
            return args[0], False
        elif kind == "filled":
            return func(*args, **kwargs), True
        elif kind == "unknown" or (kind == "indexed" and not all(is_real[1:])):
            raise ValuesNeededError
        return self._stand_in(func, args, kwargs, tensors[0].device), False

    def _stand_in(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Any:
        key = (func, _key(args), _key(tuple(kwargs.items())) if kwargs else ())
        if key not in self._layouts:
            try:
                self._layouts[key] = layouts_of(func, args, kwargs)
            except Exception:  # no meta kernel, or one that can't tell: the real one runs on what there is
                self._layouts[key] = None
        layouts = self._layouts[key]
        return func(*args, **kwargs) if layouts is None else _empty(layouts, device)


def _fits(value: Tensor, target: Tensor) -> bool:
    """Whether a tensor can be written to another, element by element."""
    missing = target.dim() - value.dim()
    sizes = zip(value.shape, target.shape[max(missing, 0) :], strict=False)
    return value.shape == target.shape or (missing >= 0 and all(a in (1, b) for a, b in sizes))


def _key(value: Any) -> Any:
    """Something hashable that says all that a result's layout can depend on."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple([_key(item) for item in value])
    return type(value), value


def _empty(layouts: Any, device: torch.device) -> Any:
    """Memory of the given layouts."""
    if isinstance(layouts, tuple) and len(layouts) == 3 and isinstance(layouts[2], torch.dtype):
        return torch.empty_strided(layouts[0], layouts[1], dtype=layouts[2], device=device)
    if isinstance(layouts, (list, tuple)):
        return type(layouts)([_empty(layout, device) for layout in layouts])
    return layouts
