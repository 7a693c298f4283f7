"""In and out of dynamic ops: the same object, another class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

import lightning_channels.dynamic_ops.named  # noqa: F401  # registers the named classes
from lightning_channels.dynamic_ops.attributes import key_of, sides_without_tensors
from lightning_channels.dynamic_ops.candidates import drop, settle
from lightning_channels.dynamic_ops.factory import dynamic_class
from lightning_channels.dynamic_ops.mixin import DynamicMixin
from lightning_channels.dynamic_ops.plan import plan_of
from lightning_channels.dynamic_ops.slicing import apply
from lightning_channels.dynamic_ops.spec import refusal, spec_of
from lightning_channels.dynamic_ops.state import STATE, ChannelState, build_state, container_of, state_of
from lightning_channels.errors import PrepareError
from lightning_channels.mutables.container import MutableChannelContainer
from lightning_channels.mutables.selection import IndexSelection, Selection

__all__ = [
    "StaticMemo",
    "container_of",
    "containers",
    "cut",
    "is_dynamic",
    "make_dynamic",
    "make_static",
    "restore",
    "selections_key",
    "swap_class",
]

StaticMemo = dict[tuple[int, tuple[object, ...]], tuple[Tensor, Tensor]]
"""(id of a full tensor, its selections) to (that tensor, its active part): shared tensors stay shared."""


def make_dynamic(
    module: nn.Module, tensors: Mapping[str, Sequence[int]] | None = None, attributes: Sequence[str] = ()
) -> nn.Module:
    """Make a module dynamic, in place: its class is swapped, and nothing else changes at full width.

    Calling it again keeps what is there and adds what is new.

    Args:
        module: A module of the table, or of a subclass, or any module that owns tensors with channels.
        tensors: Further parameters and buffers of the module itself, with the dims that hold channels, as in
            ``{"gamma": [0]}``. Their side is called like the tensor, or ``"gamma[0]"`` if it has more dims than that.
        attributes: Integers of the module that count channels, such as ``"num_heads"``, or ``"splits[0]"`` for an entry
            of a list or tuple. Their side is called like that.

    Returns:
        The same object.

    Raises:
        PrepareError: If it cannot be narrowed, or has nothing with channels.

    Example:
        >>> linear = make_dynamic(nn.Linear(4, 2))
        >>> linear
        DynamicLinear(
          in_features=4, out_features=2, bias=True
          (mutable_attrs): ModuleDict(
            (in_features): MutableChannelContainer(num_channels=4, activated_channels=4)
            (out_features): MutableChannelContainer(num_channels=2, activated_channels=2)
          )
        )
    """
    reason = refusal(module)
    if reason is not None:
        raise PrepareError(f"{type(module).__name__} cannot be narrowed: {reason}")
    known: dict[str, tuple[int, ...]] = dict(state_of(module).bare) if is_dynamic(module) else {}
    sized: list[str] = _attribute_keys(state_of(module)) if is_dynamic(module) else []
    added = _not_in_table(module, tensors or {})
    bare = {**known, **{name: tuple(sorted({*known.get(name, ()), *dims})) for name, dims in added.items()}}
    in_table = sides_without_tensors(module)  # the sizes of these are properties already
    keys = list(dict.fromkeys([*sized, *(key for key in attributes if key not in in_table)]))
    if is_dynamic(module):
        if bare == known and keys == sized:
            return module
        _plain_class(module)
    if not bare and not keys and spec_of(module) is None:
        raise PrepareError(f"{type(module).__name__} has no tensor with channels; name them in tensors")
    state = build_state(module, bare, keys)
    swap_class(module, dynamic_class(module, bare, state.plan.attributes, state.candidates is not None))
    module.__dict__[STATE] = state
    return module


def _attribute_keys(state: ChannelState) -> list[str]:
    return [key_of(name, entry) for name, entries in state.plan.attributes.items() for entry in entries]


def _not_in_table(module: nn.Module, tensors: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    spec = spec_of(module)
    table = spec.tensors if spec is not None else {}
    return {name: tuple(dims) for name, dims in tensors.items() if name not in table}


def swap_class(module: nn.Module, cls: type[nn.Module]) -> None:
    """Give a module another class.

    Raises:
        PrepareError: If Python can't.
    """
    try:
        module.__class__ = cls
    except TypeError as error:
        raise PrepareError(f"the class of {type(module).__name__} cannot be swapped: {error}") from error


def is_dynamic(module: nn.Module) -> bool:
    """Whether a module is a dynamic op."""
    return isinstance(module, DynamicMixin) and STATE in module.__dict__


def containers(module: nn.Module) -> dict[str, MutableChannelContainer]:
    """The containers of a dynamic op, by side.

    Raises:
        PrepareError: If ``module`` is no dynamic op.
    """
    return state_of(module).containers


def _plain_class(module: nn.Module) -> type[nn.Module]:
    if not isinstance(module, DynamicMixin):
        raise PrepareError(f"{type(module).__name__} is no dynamic op; there is nothing to undo")
    if type(module).__dict__.get("plain_class") is None:
        raise PrepareError(
            f"{type(module).__name__} is a subclass of a dynamic op, so there is no plain class of it; "
            "subclass the plain module instead, and make that dynamic"
        )
    return module.plain_class


def restore(module: nn.Module) -> nn.Module:
    """Put the plain class back; the tensors stay at full size, and nothing of ours stays on the module.

    Returns:
        The same object.

    Raises:
        PrepareError: If ``module`` is no dynamic op.
    """
    plain = _plain_class(module)
    state = state_of(module)
    swap_class(module, plain)
    drop(module, state)
    del module.__dict__[STATE]
    for container in state.held:
        container.clear()
    return module


def make_static(module: nn.Module, memo: StaticMemo | None = None, borrowed: bool = False) -> nn.Module:
    """Cut a dynamic op down to its active channels, in place: a plain module with small tensors.

    Args:
        module: A dynamic op.
        memo: The same dict for all modules of a model, so that parameters which they share stay shared.
        borrowed: Whether its containers are another module's, and stay as they are.

    Returns:
        The same object, of its plain class.

    Raises:
        PrepareError: If ``module`` is no dynamic op.
        ChoiceError: If the groups of a convolution don't keep the same channels.
    """
    memo = {} if memo is None else memo
    plain = _plain_class(module)
    state = state_of(module)
    settle(module, state)
    sizes = _active_sizes(module)
    parts = {name: _static(module, state, name, memo) for name in state.plan.tensors}
    if borrowed:
        module.__dict__[STATE] = ChannelState(plan_of(()), ())
    restore(module)
    assert type(module) is plain
    module.__dict__.update(sizes)
    for name, part in parts.items():
        store = module._parameters if name in module._parameters else module._buffers
        store[name] = part  # type: ignore[assignment]
    return module


def _active_sizes(module: nn.Module) -> dict[str, object]:
    spec = spec_of(module)
    names = list(state_of(module).plan.attributes)
    if spec is not None:
        names += [*spec.sizes, *([spec.groups.attribute] if spec.groups is not None else [])]
    return {name: getattr(module, name) for name in names}


def _static(module: nn.Module, state: ChannelState, name: str, memo: StaticMemo) -> Tensor | None:
    store = module._parameters if name in module._parameters else module._buffers
    full = store[name]
    if full is None:
        return None
    selections = state.selections(name)
    if all(selection is None for _, selection in selections):
        return full
    key = (id(full), selections_key(selections))
    if key not in memo:
        memo[key] = (full, cut(full, selections))  # the full tensor too, or its id could be another's later
    return memo[key][1]


def selections_key(selections: list[tuple[int, Selection]]) -> tuple[object, ...]:
    """What is the same for equal selections; empty where all channels are active."""
    return tuple((dim, _hashable(selection)) for dim, selection in selections if selection is not None)


def _hashable(selection: Selection) -> object:
    return selection.index.numpy().tobytes() if isinstance(selection, IndexSelection) else selection


def cut(full: Tensor, selections: list[tuple[int, Selection]]) -> Tensor:
    """A copy of the active part of a tensor, in its memory format; a parameter gives a parameter."""
    with torch.no_grad():
        small = apply(full.detach(), selections)
        # in the order of the full tensor's strides, which index_select forgets: channels_last stays channels_last
        strides = full.stride()
        order = sorted(range(full.dim()), key=lambda dim: -strides[dim])
        back = [order.index(dim) for dim in range(full.dim())]
        small = small.permute(order).clone(memory_format=torch.contiguous_format).permute(back)
    if not isinstance(full, nn.Parameter):
        return small.requires_grad_(full.requires_grad)
    parameter = nn.Parameter(small, requires_grad=full.requires_grad)
    parameter.__dict__.update(full.__dict__)
    return parameter
