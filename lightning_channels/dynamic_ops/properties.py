"""The getters: tensors and sizes of a dynamic op at the active width.

No getter may leak an AttributeError: Python would then ask ``nn.Module.__getattr__``, which gives the full tensor.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_channels._compiling import CompilableGetter
from lightning_channels.dynamic_ops.attributes import with_sizes
from lightning_channels.dynamic_ops.candidates import SWITCHED, holder_of, joined, with_all_candidates
from lightning_channels.dynamic_ops.cuts import cut
from lightning_channels.dynamic_ops.spec import STATISTICS, Groups, OpSpec, group_count, is_depthwise
from lightning_channels.dynamic_ops.state import STATE, ChannelState, check_depthwise, within_group
from lightning_channels.dynamic_ops.views import narrowed
from lightning_channels.dynamic_ops.writeback import with_one_copy, with_statistics
from lightning_channels.errors import PrepareError
from lightning_channels.mutables.selection import IndexSelection

__all__ = ["add_properties"]

Getter = Callable[[nn.Module], Any]
Setter = Callable[[nn.Module, Any], None]


def add_properties(
    cls: type[nn.Module],
    spec: OpSpec | None,
    tensors: Iterable[str],
    buffers: bool,
    attributes: Iterable[str] = (),
    switchable: bool = False,
) -> None:
    """Put the getters and setters on a dynamic class.

    Args:
        cls: The class.
        spec: Its entry in the table, if it has one.
        tensors: All its tensors with channels.
        buffers: Whether some of them are buffers, which its forward may update.
        attributes: Names of integer attributes that follow channels.
        switchable: Whether there are several candidates' tensors to choose from.
    """
    for name in tensors:
        setattr(cls, name, _tensor(name))
    for name in SWITCHED if switchable else ():
        setattr(cls, name, _switched(name))
    for name in attributes:
        setattr(cls, name, _attribute(name))
    if spec is not None:
        for attribute, side in spec.sizes.items():
            setattr(cls, attribute, _size(attribute, side, spec.write))
        if spec.groups is not None:
            setattr(cls, spec.groups.attribute, _groups(spec, spec.groups))
    if buffers:
        setattr(cls, "forward", with_statistics(cls.forward))  # noqa: B010  # mypy takes the plain form for an error
    if issubclass(cls, nn.MultiheadAttention):
        setattr(cls, "forward", with_one_copy(cls.forward))  # noqa: B010
    if switchable:
        setattr(cls, "forward", with_all_candidates(cls.forward))  # noqa: B010


def _tensor(name: str) -> property:
    # where it is looked for first; it may be in the other one
    store = "_buffers" if name in STATISTICS else "_parameters"

    def get(self: nn.Module) -> Any:
        # written for speed: at full width, on every access, this much and no more
        attributes = self.__dict__
        try:
            tensor = attributes[store][name]
        except KeyError:
            tensor = _stored(self, name)
        try:
            state = attributes[STATE]
            for container in state.held:
                if container._sel is not None:
                    return _narrow(self, name, state, tensor)
        except KeyError:  # of the first line: what narrowing raises is a RuntimeError
            return tensor
        except AttributeError as error:
            raise _failed(self, name, error) from error
        return tensor

    def put(self: nn.Module, value: Any) -> None:
        # nn.Module registers parameters and buffers by itself; what comes here is neither
        self.__dict__[name] = value

    def traced(self: nn.Module) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        tensor = _stored(self, name)
        if state is None or state.full or tensor is None or name not in state.plan.tensors:
            return tensor
        return _gathered(self, name, state, tensor)

    return _compilable(name, get, put, traced)


def _stored(self: nn.Module, name: str) -> Any:
    """The full tensor, or number, from wherever it is kept."""
    attributes = self.__dict__
    for held in (attributes.get("_parameters"), attributes.get("_buffers"), attributes):
        if held is not None and name in held:
            return held[name]
    # under construction, or an attribute that this instance doesn't have: missing as on any module
    raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _switched(name: str) -> property:
    """The tensor of the active candidate."""
    own = _tensor(name)

    def get(self: nn.Module) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        try:
            if state is None or state.candidates is None or state.full:
                return own.__get__(self)
            if state.joined and name not in self._buffers and (part := joined(self, state, name)) is not None:
                return part
            tensor = _stored(holder_of(self, state), name)
            if all(container._sel is None for container in state.held):
                return tensor
            return _narrow(self, name, state, tensor)
        except (AttributeError, KeyError) as error:
            if state is None:
                raise
            raise _failed(self, name, error) from error

    return property(get, own.fset)


def _narrow(self: nn.Module, name: str, state: ChannelState, tensor: Tensor | None) -> Tensor | None:
    if tensor is None or state.full or name in state.sharded:
        return tensor
    try:
        # prefixes along all dims, by far the most frequent case, in a few steps; see slicing for what it does
        size: list[int] | None = None
        held = state.held
        for dim, place, groups in state.plan.tensors.get(name, ()):
            container = held[place]
            selection = container._sel
            if selection is not None and type(selection) is not int:
                selection = container.sel  # it may have been stale
            if selection is not None:
                if type(selection) is not int or groups > 1:
                    return _gathered(self, name, state, tensor)
                if size is None:
                    size = list(tensor.shape)
                size[dim] = selection
        if size is None:
            return tensor
        if state.joint is not None and state.joint.takes(tensor):
            return cut(tensor, state.selections(name), state.joint)
        return narrowed(state, name, tensor, size)
    except (AttributeError, KeyError) as error:
        raise _failed(self, name, error) from error


def _gathered(self: nn.Module, name: str, state: ChannelState, tensor: Tensor) -> Tensor:
    live = state.live
    compiling = torch.compiler.is_compiling()  # then only what is needed: each thing that is looked at is guarded
    known = None if live is None else live.get(name)
    if known is not None:
        source, part = known
        # what was read without autograd can't be trained on
        if compiling or (source is tensor and part.requires_grad == (tensor.requires_grad and torch.is_grad_enabled())):
            return part
    rows = state.plan.tensors[name]
    if len(rows) == 1 and tensor.dim() == 1 and not compiling:  # most of what is selected by index, in a few steps
        ((_, place, groups),) = rows
        selection = state.held[place].sel
        if isinstance(selection, IndexSelection) and groups == 1:
            part = tensor.index_select(0, selection.index if tensor.is_cpu else selection.on(tensor.device))
            if live is not None:
                live[name] = tensor, part
            return part
    selections = state.selections(name)
    part = cut(tensor, selections, state.joint)
    if (
        live is not None
        and (not compiling or name in self._buffers)
        and any(isinstance(selection, IndexSelection) for _, selection in selections)
    ):
        live[name] = tensor, part
    return part


def _compilable(name: str, get: Getter, put: Setter, traced: Getter) -> property:
    """A property of a dynamic op, with the getter that is compiled; what that one raises is reported as well."""

    def reported(self: nn.Module) -> Any:
        try:
            return traced(self)
        except AttributeError as error:
            if STATE not in self.__dict__:
                raise
            raise _failed(self, name, error) from error

    return CompilableGetter(get, put, reported)


def _failed(self: nn.Module, name: str, error: Exception) -> RuntimeError:
    return RuntimeError(f"{type(self).__name__}.{name} could not be narrowed: {error}")


def _size(attribute: str, side: str, write: Callable[[int], Any]) -> property:
    def active(self: nn.Module, state: ChannelState) -> Any:
        place = state.plan.places.get(side)
        if place is None or state.held[place]._sel is None:
            return self.__dict__[attribute]
        return write(state.held[place].activated_channels)

    def get(self: nn.Module) -> Any:
        attributes = self.__dict__
        state: ChannelState | None = attributes.get(STATE)
        if state is None:
            return _stored(self, attribute)
        try:
            for container in state.held:
                if container._sel is not None:
                    return attributes[attribute] if state.full else active(self, state)
            return attributes[attribute]
        except (AttributeError, KeyError) as error:
            raise _failed(self, attribute, error) from error

    def traced(self: nn.Module) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        place = None if state is None or state.full else state.plan.places.get(side)
        if state is None or place is None:
            return _stored(self, attribute)
        return write(state.held[place].activated_channels)

    return _compilable(attribute, get, _refuse(attribute), traced)


def _attribute(name: str) -> property:
    def get(self: nn.Module) -> Any:
        attributes = self.__dict__
        state: ChannelState | None = attributes.get(STATE)
        if state is None:
            return _stored(self, name)
        try:
            held, sides = state.held, state.plan.attributes[name]
            if state.full or all(held[place]._sel is None for place in sides.values()):
                return attributes[name]
            return with_sizes(attributes[name], {at: held[place].activated_channels for at, place in sides.items()})
        except (AttributeError, KeyError) as error:
            raise _failed(self, name, error) from error

    def traced(self: nn.Module) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        held = _stored(self, name)
        if state is None or state.full:
            return held
        sides = state.plan.attributes[name]
        return with_sizes(held, {at: state.held[place].activated_channels for at, place in sides.items()})

    return _compilable(name, get, _refuse(name), traced)


def _groups(spec: OpSpec, groups: Groups) -> property:
    attribute = groups.attribute

    def get(self: nn.Module) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        if state is None:
            return _stored(self, attribute)
        try:
            count = self.__dict__[attribute]
            if count == 1 or state.full or all(c._sel is None for c in state.held):
                return count
            return _known_groups(self, state, spec, groups)
        except (AttributeError, KeyError) as error:
            raise _failed(self, attribute, error) from error

    def traced(self: nn.Module) -> Any:
        state: ChannelState | None = self.__dict__.get(STATE)
        count = _stored(self, attribute)
        if state is None or state.full or count == 1:
            return count
        if is_depthwise(self, spec) and len({id(m.root) for c in state.held for m in c.mutables}) == 1:
            return state.container(groups.side).activated_channels  # one mutable decides: there is nothing to check
        return _active_groups(self, state, spec, groups)

    return _compilable(attribute, get, _refuse(attribute), traced)


def _known_groups(self: nn.Module, state: ChannelState, spec: OpSpec, groups: Groups) -> int:
    """The groups with active channels, counted and checked once a choice."""
    known = state.groups
    if known is not None and all(map(operator.is_, known[0], (container._sel for container in state.held))):
        return known[1]
    count = _active_groups(self, state, spec, groups)
    state.groups = tuple(container.sel for container in state.held), count
    return count


def _active_groups(self: nn.Module, state: ChannelState, spec: OpSpec, groups: Groups) -> int:
    count = group_count(self, spec)
    if is_depthwise(self, spec):
        if groups.strict:
            check_depthwise(state, count)
        return state.container(groups.side).activated_channels
    if groups.strict:
        for side in spec.sides:
            container = state.container(side)
            within_group(container.sel, container.num_channels, count)
    return count


def _refuse(attribute: str) -> Callable[[Any, Any], None]:
    def put(self: nn.Module, value: Any) -> None:
        if STATE in self.__dict__:
            raise PrepareError(
                f"{type(self).__name__}.{attribute} follows the active channels and cannot be set;"
                " change the choice of its unit instead (mutator.set_choices), take export_subnet(model), whose sizes"
                " are plain attributes, or restore() the module first"
            )
        self.__dict__[attribute] = value

    return put
