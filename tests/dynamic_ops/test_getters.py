"""Getters that cannot lie: a property that raises AttributeError would have nn.Module give the full tensor instead."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import lightning_channels
from lightning_channels._compiling import CompilableGetter
from lightning_channels.dynamic_ops import (
    DynamicMixin,
    containers,
    make_dynamic,
    make_static,
    make_switchable,
    properties,
    restore,
    views,
)
from lightning_channels.dynamic_ops.state import STATE, ChannelState
from lightning_channels.errors import PrepareError
from lightning_channels.mutables import MutableChannelContainer, SimpleMutableChannel
from lightning_channels.mutables.selection import IndexSelection, Selection
from tests.dynamic_ops.cases import CASES


class Heads(nn.Linear):
    """Integers that follow channels, one of them in a list."""

    def __init__(self) -> None:
        super().__init__(4, 6)
        self.num_heads, self.splits = 6, [6, 1]


def heads() -> nn.Module:
    return make_dynamic(Heads(), attributes=["num_heads", "splits[0]"])


def narrow(module: nn.Module, tensors: dict[str, list[int]], keep: dict[str, Any]) -> nn.Module:
    make_dynamic(module, tensors)
    for side, container in containers(module).items():
        mutable = SimpleMutableChannel(container.num_channels)
        container.register_mutable(mutable)
        if side in keep:
            mutable.keep(keep[side])
    return module


BUILDS: dict[str, Callable[[], nn.Module]] = {
    f"{case.name}-{kind}": lambda case=case, kind=kind: narrow(case.module(), case.tensors, case.keep(kind))  # type: ignore[misc]
    for case in CASES
    for kind in ("prefix", "index")
} | {
    "attributes": lambda: narrow(heads(), {}, {"num_heads": [0, 2, 5], "splits[0]": 4}),
    "switchable": lambda: narrow(make_switchable(nn.BatchNorm2d(8), 3), {}, {"num_features": [1, 3]}),
}


def getters(module: nn.Module) -> dict[str, property]:
    """Every property that the dynamic class puts over the plain one."""
    assert isinstance(module, DynamicMixin)
    ours = [cls for cls in type(module).__mro__ if issubclass(cls, DynamicMixin)]
    found: dict[str, property] = {}
    for cls in reversed(ours):
        found |= {name: value for name, value in vars(cls).items() if isinstance(value, property)}
    return found


class Deep(AttributeError):
    """What is injected."""


class BrokenContainer(MutableChannelContainer):
    """Fails wherever it is asked what is active."""

    __slots__ = ()

    @property
    def _sel(self) -> Any:  # type: ignore[override]
        raise Deep("in the container")

    @_sel.setter
    def _sel(self, value: Any) -> None:
        pass

    @property
    def sel(self) -> Any:
        raise Deep("in the container")


class BrokenSelection(IndexSelection):
    """Fails wherever it is applied."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def on(self, device: torch.device) -> torch.Tensor:
        raise Deep("in the selection")

    def within_group(self, num_channels: int, groups: int) -> Selection:
        raise Deep("in the selection")

    def __len__(self) -> int:
        raise Deep("in the selection")


class BrokenState(ChannelState):
    """Fails wherever it is asked for something."""

    __slots__ = ()

    def __init__(self) -> None:
        pass

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return BrokenState
        raise Deep("in the state")


def in_the_container(module: nn.Module) -> None:
    state = module.__dict__[STATE]
    state.held = tuple(BrokenContainer(container.num_channels) for container in state.held)


def in_the_selection(module: nn.Module) -> None:
    for container in containers(module).values():
        for mutable in container.mutables if isinstance(container._sel, IndexSelection) else ():
            mutable._set(BrokenSelection())


def in_the_state(module: nn.Module) -> None:
    module.__dict__[STATE] = BrokenState()


def readings(module: nn.Module, name: str, getter: property) -> Iterator[Callable[[], Any]]:
    """Ways to read it: as everyone does, and as the compiler does."""
    yield lambda: getattr(module, name)
    if isinstance(getter, CompilableGetter):
        yield lambda: getter.fget(module)


@pytest.mark.parametrize("break_it", [in_the_container, in_the_selection, in_the_state])
@pytest.mark.parametrize("name", BUILDS)
def test_no_getter_lies_where_something_fails(name: str, break_it: Callable[[nn.Module], None]) -> None:
    """It raises, or gives what is right because it needs nothing of what is broken."""
    module = BUILDS[name]()
    found = getters(module)
    right = {
        (attribute, number): read()
        for attribute, getter in found.items()
        for number, read in enumerate(readings(module, attribute, getter))
        if attribute != "mutable_attrs" and hasattr(module, attribute)
    }
    break_it(module)
    raised = 0
    for (attribute, number), expected in right.items():
        read = list(readings(module, attribute, found[attribute]))[number]
        given, error = _outcome(read)
        if error is not None:
            assert isinstance(error.__cause__, AttributeError), error
            raised += 1
        else:
            same = torch.equal(given, expected) if isinstance(given, torch.Tensor) else given == expected
            assert same, f"{attribute} is {given}, and not {expected}"
    assert raised or (break_it is in_the_selection and name.endswith("prefix")), "nothing was broken"
    if break_it is in_the_state:
        with pytest.raises(RuntimeError, match="mutable_attrs could not be read") as caught:
            module.mutable_attrs
        assert isinstance(caught.value.__cause__, Deep)


def _outcome(read: Callable[[], Any]) -> tuple[Any, RuntimeError | None]:
    try:
        return read(), None
    except RuntimeError as error:
        return None, error


def test_every_module_of_the_package_is_looked_at() -> None:
    """nn.Module's own __getattr__ stands behind dynamic ops alone; what else has properties is no nn.Module."""
    for found in pkgutil.walk_packages(lightning_channels.__path__, "lightning_channels."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    waiting, modules = [nn.Module], set()
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__module__.startswith("lightning_channels."):
            modules.add(cls)
    others = {cls for cls in modules if not issubclass(cls, DynamicMixin)}
    assert modules - others
    assert not [cls for cls in others if any(isinstance(value, property) for value in vars(cls).values())]


@pytest.mark.parametrize("name", BUILDS)
def test_what_is_missing_is_missing_as_on_any_module(name: str) -> None:
    module = BUILDS[name]()
    with pytest.raises(AttributeError, match="no_such_thing"):
        module.no_such_thing
    assert not hasattr(module, "unit")


@pytest.mark.parametrize("name", BUILDS)
def test_writing_a_size_says_what_to_do_instead(name: str) -> None:
    """On the dynamic op alone: the plain module takes it before and after."""
    module = BUILDS[name]()
    sizes = [
        attribute
        for attribute in getters(module)
        if attribute in module.__dict__ and not isinstance(module.__dict__[attribute], torch.Tensor)
    ]
    for attribute in sizes:
        before = getattr(module, attribute)
        with pytest.raises(PrepareError, match=rf"\.{attribute} follows .*mutator\.set_choices.* export_subnet"):
            setattr(module, attribute, before)
        assert getattr(module, attribute) == before
    for plain in (restore(module), make_static(BUILDS[name]())):
        for attribute in sizes:
            setattr(plain, attribute, 17)
            assert getattr(plain, attribute) == 17


def test_sizes_cannot_be_written() -> None:
    conv = make_dynamic(nn.Conv2d(4, 8, 3, groups=4))
    for name in ("in_channels", "out_channels", "groups"):
        with pytest.raises(PrepareError, match=rf"DynamicConv2d.{name} follows the active channels and cannot be set"):
            setattr(conv, name, 4)
    assert (conv.in_channels, conv.out_channels, conv.groups) == (4, 8, 4)


@pytest.mark.parametrize(("module", "called"), [(views, "prefix"), (properties, "cut")], ids=["prefix", "indices"])
def test_a_failing_getter_never_shows_the_full_tensor(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, called: str
) -> None:
    def fail(*_args: object) -> None:
        raise AttributeError("injected")

    linear = narrow(nn.Linear(4, 6), {}, {"out_features": 2 if module is views else [0, 5]})
    monkeypatch.setattr(module, called, fail)
    with pytest.raises(RuntimeError, match=r"DynamicLinear.weight could not be narrowed: injected"):
        linear.weight
    with pytest.raises(RuntimeError, match="could not be narrowed"):
        linear(torch.randn(1, 4))
    monkeypatch.setattr(MutableChannelContainer, "activated_channels", property(fail))
    with pytest.raises(RuntimeError, match=r"DynamicLinear.out_features could not be narrowed: injected"):
        linear.out_features
