"""Which tensors and attributes of a module hold which channels: the table behind all dynamic ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

__all__ = ["STATISTICS", "Groups", "OpSpec", "Side", "add_spec", "class_spec", "layout", "refusal", "sides", "spec_of"]

STATISTICS = ("running_mean", "running_var")
"""Tensors in the table that are buffers, which a forward in train mode updates."""


@dataclass(frozen=True)
class Side:
    """Channels of a module, and where they are seen from outside."""

    is_input: bool
    is_output: bool


@dataclass(frozen=True)
class Groups:
    """How a module splits its channels into groups.

    Args:
        attribute: Attribute with the number of groups.
        side: Where this side has one channel a group (depthwise), there are as many groups as it has active channels.
        strict: Whether every group must keep the same positions; else only their number must be the same.
        within: Tensor and dim that hold the channels of a single group, if there is such a one.
    """

    attribute: str
    side: str
    strict: bool
    within: tuple[str, int] | None = None


@dataclass(frozen=True)
class OpSpec:
    """What narrowing one kind of module means.

    Args:
        sides: Name to side.
        tensors: Parameter or buffer to the side along each of its dims (None: no channels).
        sizes: Attribute to the side whose size it is.
        groups: How the channels are split into groups, for modules that do.
        write: How a size attribute holds a number.
        read: The number back from it.
    """

    sides: Mapping[str, Side]
    tensors: Mapping[str, tuple[str | None, ...]]
    sizes: Mapping[str, str]
    groups: Groups | None = None
    write: Callable[[int], Any] = field(default=int)
    read: Callable[[Any], int] = field(default=int)


def _conv(weight: tuple[str, str]) -> OpSpec:
    return OpSpec(
        sides={"in_channels": Side(True, False), "out_channels": Side(False, True)},
        tensors={"weight": weight, "bias": ("out_channels",)},
        sizes={"in_channels": "in_channels", "out_channels": "out_channels"},
        groups=Groups("groups", "in_channels", strict=True, within=("weight", 1)),
    )


def _norm(side: str, tensors: tuple[str, ...], **kwargs: Any) -> OpSpec:
    kwargs.setdefault("sizes", {side: side})
    return OpSpec(sides={side: Side(True, True)}, tensors=dict.fromkeys(tensors, (side,)), **kwargs)


def _shape(size: int) -> tuple[int]:
    return (size,)


def _only(shape: tuple[int]) -> int:
    (size,) = shape
    return size


_SHAPED: dict[str, Any] = {"sizes": {"normalized_shape": "num_features"}, "write": _shape, "read": _only}

# matched by isinstance, the first that fits: subclasses with a forward of their own are as good as the class itself,
# because it is what their forward reads that is narrowed
_OPS: tuple[tuple[type[nn.Module], OpSpec], ...] = (
    (_ConvTransposeNd, _conv(("in_channels", "out_channels"))),
    (_ConvNd, _conv(("out_channels", "in_channels"))),
    (
        nn.Linear,
        OpSpec(
            sides={"in_features": Side(True, False), "out_features": Side(False, True)},
            tensors={"weight": ("out_features", "in_features"), "bias": ("out_features",)},
            sizes={"in_features": "in_features", "out_features": "out_features"},
        ),
    ),
    (_NormBase, _norm("num_features", ("weight", "bias", *STATISTICS))),
    (nn.LayerNorm, _norm("num_features", ("weight", "bias"), **_SHAPED)),
    (nn.RMSNorm, _norm("num_features", ("weight",), **_SHAPED)),
    (
        nn.GroupNorm,
        _norm("num_channels", ("weight", "bias"), groups=Groups("num_groups", "num_channels", strict=False)),
    ),
    (nn.PReLU, _norm("num_parameters", ("weight",))),
    (
        nn.Embedding,
        OpSpec(
            sides={"embedding_dim": Side(False, True)},
            tensors={"weight": (None, "embedding_dim")},
            sizes={"embedding_dim": "embedding_dim"},
        ),
    ),
)

_ADDED: list[tuple[type[nn.Module], OpSpec]] = []
"""Layers of users' own, the latest first; see :func:`lightning_channels.dynamic_op`."""


def spec_of(module: nn.Module) -> OpSpec | None:
    """The table's entry for a module; None if it has none, or if this one has no channels (a PReLU with one slope)."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.__dict__["normalized_shape"]) != 1:
        return None
    if isinstance(module, nn.PReLU) and module.__dict__["num_parameters"] == 1:
        return None
    return class_spec(type(module))


_FOUND: dict[type[nn.Module], OpSpec | None] = {}


def class_spec(cls: type[nn.Module]) -> OpSpec | None:
    """The table's entry for a class; what users added goes first, since they may inherit from what is in the table."""
    if cls not in _FOUND:
        _FOUND[cls] = next((spec for known, spec in (*_ADDED, *_OPS) if issubclass(cls, known)), None)
    return _FOUND[cls]


def add_spec(cls: type[nn.Module], spec: OpSpec) -> None:
    """Add a layer of the user's own to the table."""
    _ADDED.insert(0, (cls, spec))
    _FOUND.clear()


def sides(module: nn.Module) -> dict[str, int]:
    """The sides of a module with their full sizes, from the table alone; empty if it isn't in it."""
    spec = spec_of(module)
    if spec is None:
        return {}
    # the instance's own entry is the full size even where a dynamic class shows the active one
    held = module.__dict__
    found = {side: spec.read(held[attribute]) for attribute, side in spec.sizes.items() if attribute in held}
    if len(found) < len(spec.sides):  # a layer that keeps no such number
        found |= {side: size for side, size in _tensor_sizes(module, spec) if side not in found}
    return {side: found[side] for side in spec.sides if side in found}


def _tensor_sizes(module: nn.Module, spec: OpSpec) -> Iterator[tuple[str, int]]:
    """(side, size) of each dim with channels of a module's tensors."""
    for name, dims in spec.tensors.items():
        tensor = {**module._parameters, **module._buffers}.get(name)
        if tensor is not None:
            yield from ((side, size) for side, size in zip(dims, tensor.shape, strict=False) if side is not None)


def layout(module: nn.Module) -> dict[str, tuple[tuple[int, str, int], ...]]:
    """For each tensor of a module: (dim, side, groups) of each dim with channels.

    ``groups`` is 1, or the number of groups where the dim holds the channels of a single one. A depthwise convolution's
    dim with the entries of one group is left out: it is never narrowed.
    """
    spec = spec_of(module)
    if spec is None:
        return {}
    groups = group_count(module, spec)
    depthwise = is_depthwise(module, spec)
    found = {}
    for name, dims in spec.tensors.items():
        if name not in module._parameters and name not in module._buffers:
            continue  # a plain None, of a layer that has no bias
        rows = []
        for dim, side in enumerate(dims):
            within = groups > 1 and spec.groups is not None and spec.groups.within == (name, dim)
            if side is not None and not (within and depthwise):
                rows.append((dim, side, groups if within else 1))
        found[name] = tuple(rows)
    return found


def group_count(module: nn.Module, spec: OpSpec) -> int:
    """The full number of groups; 1 for modules without."""
    return 1 if spec.groups is None else int(module.__dict__[spec.groups.attribute])


def is_depthwise(module: nn.Module, spec: OpSpec) -> bool:
    """Whether each group has one channel, so that the groups go where the channels go."""
    groups = group_count(module, spec)
    return groups > 1 and spec.groups is not None and sides(module)[spec.groups.side] == groups


def refusal(module: nn.Module) -> str | None:
    """Why this module's tensors cannot be narrowed; None if they can."""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        return "it reads flattened weights, past its attributes"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled by TorchScript"
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        return "it is lazy and not initialised yet; run the model once"
    if parametrize.is_parametrized(module):
        return "it is parametrized, so its weight is computed at each access"
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and spec_of(module) is None:
        return f"it normalises over {len(module.__dict__['normalized_shape'])} dims; only one is supported"
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.sparse):
        return (
            "max_norm renormalises its weight in place" if module.max_norm is not None else "its gradients are sparse"
        )
    return _computed_by_hook(module) or _unlike_its_entry(module)


def _unlike_its_entry(module: nn.Module) -> str | None:
    """Why what a user said about a layer isn't so; torch's own layers are as the table says."""
    spec = spec_of(module) if _ADDED else None
    if spec is None or not any(spec is added for _, added in _ADDED):
        return None
    tensors = {**module._parameters, **module._buffers}
    for name, dims in spec.tensors.items():
        tensor = tensors.get(name)
        if name not in tensors and name not in module.__dict__:
            return f"it has no parameter or buffer {name!r}, which its dynamic op names"
        if tensor is not None and tensor.dim() != len(dims):
            return f"its {name} has {tensor.dim()} dims, and its dynamic op names {len(dims)}"
    for attribute in spec.sizes:
        if not isinstance(module.__dict__.get(attribute), int):
            return f"it has no integer {attribute!r}, which its dynamic op names (sizes={{}} says that it keeps none)"
    known = dict(_tensor_sizes(module, spec))
    missing = [side for side in spec.sides if side not in spec.sizes.values() and side not in known]
    if missing:
        return f"none of the tensors that this one has shows the size of its side {missing[0]!r}"
    full = sides(module)
    for side, size in _tensor_sizes(module, spec):
        if size != full[side]:
            return f"its side {side!r} has {full[side]} channels, and a tensor of it {size}"
    return None


def _computed_by_hook(module: nn.Module) -> str | None:
    spec = spec_of(module)
    for name in () if spec is None else spec.tensors:
        if name not in module._parameters and name not in module._buffers and module.__dict__.get(name) is not None:
            return f"its {name} is computed by a hook (weight_norm, spectral_norm, prune)"
    return None
