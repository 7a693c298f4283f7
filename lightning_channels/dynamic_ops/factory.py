"""Dynamic classes: the named ones, and one on demand for any other class."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

from torch import nn

from lightning_channels.dynamic_ops.mixin import DynamicMixin
from lightning_channels.dynamic_ops.properties import add_properties
from lightning_channels.dynamic_ops.spec import STATISTICS, class_spec
from lightning_channels.dynamic_ops.switching import SwitchableMixin

__all__ = ["dynamic_class", "is_own_reducer", "named", "named_class", "plain_class", "switchable"]

C = TypeVar("C", bound=type[DynamicMixin])
_Key = tuple[type[nn.Module], tuple[str, ...], bool, tuple[str, ...], bool]

_NAMED: dict[type[nn.Module], type[DynamicMixin]] = {}
_SWITCHABLE: dict[type[nn.Module], type[DynamicMixin]] = {}
_GENERIC: dict[_Key, type[DynamicMixin]] = {}
_REDUCERS: set[Callable[..., Any]] = set()


def named(cls: C) -> C:
    """Class decorator: complete a dynamic class from the table, and use it for instances of its plain class.

    The plain class is the second base.
    """
    plain = cls.__bases__[1]
    spec = class_spec(plain)
    assert spec is not None
    cls.plain_class = plain
    add_properties(cls, spec, spec.tensors, any(name in spec.tensors for name in STATISTICS))
    _NAMED[plain] = cls
    return cls


def named_class(plain: type[nn.Module]) -> type[DynamicMixin] | None:
    """The dynamic class of a plain class that has one with a name."""
    return _NAMED.get(plain)


def switchable(cls: C) -> C:
    """Class decorator: the same for a class that switches with the candidate; its second base is the dynamic class."""
    plain = cls.plain_class
    spec = class_spec(plain)
    assert spec is not None
    cls.plain_class = plain  # its own, as every dynamic class but a user's subclass has it
    setattr(cls, "forward", plain.forward)  # noqa: B010  # the dynamic class's is wrapped already
    add_properties(cls, spec, spec.tensors, buffers=True, switchable=True)
    _SWITCHABLE[plain] = cls
    return cls


def dynamic_class(
    module: nn.Module, bare: Mapping[str, Sequence[int]], attributes: Iterable[str] = (), switchable: bool = False
) -> type[DynamicMixin]:
    """The dynamic class of a module: named if its plain class has one, else made once for what follows channels."""
    plain = plain_class(module)
    known = (_SWITCHABLE if switchable else _NAMED).get(plain)
    names = tuple(sorted(set(attributes)))
    if known is not None and not bare and not names:
        return known
    spec = class_spec(plain)
    tensors = [*(spec.tensors if spec else ()), *bare]
    buffers = any(name in module._buffers for name in tensors)
    return _generic(plain, tuple(sorted(set(tensors))), buffers, names, switchable)


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module has without us."""
    return module.plain_class if isinstance(module, DynamicMixin) else type(module)


def _generic(
    plain: type[nn.Module], tensors: tuple[str, ...], buffers: bool, attributes: tuple[str, ...], switchable: bool
) -> type[DynamicMixin]:
    key = (plain, tensors, buffers, attributes, switchable)
    if key not in _GENERIC:
        name, mixin = ("Switchable", SwitchableMixin) if switchable else ("Dynamic", DynamicMixin)
        cls: type[DynamicMixin] = type(f"{name}{plain.__name__}", (mixin, plain), {"__module__": plain.__module__})
        cls.__doc__ = plain.__doc__
        cls.plain_class = plain
        add_properties(cls, class_spec(plain), tensors, buffers, attributes, switchable)
        setattr(cls, "__reduce_ex__", _reducer(cls, key))  # noqa: B010  # mypy takes the plain form for an error
        _GENERIC[key] = cls
    return _GENERIC[key]


def _reducer(cls: type[DynamicMixin], key: _Key) -> Callable[[Any, SupportsIndex], tuple[Any, ...]]:
    """How to pickle instances: by what makes the class, since no module has it under a name."""

    def reduce(self: Any, protocol: SupportsIndex) -> tuple[Any, ...]:
        make, args, *rest = super(cls, self).__reduce_ex__(protocol)
        # the default is an empty object of the class, then its state; else the plain class has a way of its own
        if make is copyreg.__newobj__ and args[0] is cls:  # type: ignore[attr-defined]
            return (_empty, (*key, *args[1:]), *rest)
        return (_remade, (key, make, tuple(key[0] if arg is cls else arg for arg in args)), *rest)

    _REDUCERS.add(reduce)
    return reduce


def is_own_reducer(method: Any) -> bool:
    """Whether a ``__reduce_ex__`` does nothing but name the class of a dynamic op by what makes it."""
    return method in _REDUCERS


def _empty(
    plain: type[nn.Module],
    tensors: tuple[str, ...],
    buffers: bool,
    attributes: tuple[str, ...],
    switchable: bool,
    *args: Any,
) -> nn.Module:
    cls = _generic(plain, tensors, buffers, attributes, switchable)
    return cls.__new__(cls, *args)


def _remade(key: _Key, make: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    module = make(*args)
    module.__class__ = _generic(*key)
    return module
