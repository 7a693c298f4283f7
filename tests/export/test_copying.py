"""Copies are what deepcopy gives."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from lightning_channels.export.copying import copied


class Plain(nn.Module):
    """Attributes of all kinds, and some that are the same objects."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.same = self.layer[0]
        self.tied = self.layer[0].weight
        self.table = {"a": [1, 2], ("b", 2): {"c": {3}}}
        self.again = self.table
        self.cache: dict[str, Any] = {}
        self.shared = self.cache
        self.order = OrderedDict(x=torch.ones(2))
        self.empty: set[int] = set()
        self.method = self.layer[1].reset_parameters
        self.parents = [self]


class Counted(nn.Module):
    """Has a way of its own to be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Counted:
        new = Counted()
        memo[id(self)] = new
        new.copies = self.copies + 1
        return new


class Shedding(nn.Module):
    """Leaves something out of what is pickled and copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.handle = object()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "handle": None}


class Looking(nn.Module):
    """Looks into its child when its state is set."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 5)
        self.width = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.width = self.inner.out_features


def test_attributes_are_copied_and_what_is_one_object_stays_one() -> None:
    model = Plain()
    new: Any = copied(model, {})
    assert list(new.__dict__) == list(model.__dict__)
    assert new.layer is not model.layer
    assert new.same is new.layer[0]
    assert new.tied is new.same.weight
    assert new.tied is not model.tied
    assert torch.equal(new.tied, model.tied)
    assert new.table == model.table
    assert new.table["a"] is not model.table["a"]
    assert new.again is new.table
    assert new.shared is new.cache
    assert new.cache is not model.cache
    assert new.order["x"] is not model.order["x"]
    assert type(new.order) is OrderedDict
    assert new.empty is not model.empty
    assert new.method.__self__ is new.layer[1]
    assert new.parents[0] is new
    assert new.layer[0]._forward_hooks is not model.layer[0]._forward_hooks
    assert new.state_dict().keys() == model.state_dict().keys()


def test_hooks_are_copied_and_can_be_added_to_the_copy_alone() -> None:
    model = Plain()
    model.layer.register_forward_hook(lambda module, args, output: output * 0)
    new = copied(model, {})
    new.get_submodule("layer.1").register_forward_hook(lambda module, args, output: output + 1)
    assert new.get_submodule("layer")(torch.ones(1, 3, 2, 2)).abs().max() == 0
    assert not model.layer[1]._forward_hooks


@pytest.mark.parametrize(
    "make", [Counted, Shedding, Looking, lambda: nn.MultiheadAttention(4, 2), lambda: nn.LSTM(2, 3)]
)
def test_a_class_keeps_its_own_way(make: Any) -> None:
    model = nn.Sequential(make(), nn.ReLU())
    new, expected = copied(model, {}), copy.deepcopy(model)
    inner, twin = new[0], expected[0]
    assert type(inner) is type(twin)
    assert inner is not model[0]
    for name, value in twin.__dict__.items():
        if not isinstance(value, (dict, list)):
            assert inner.__dict__[name] == value
    assert [n for n, _ in new.named_parameters()] == [n for n, _ in model.named_parameters()]
    for own, old in zip(new.parameters(), model.parameters(), strict=True):
        assert own is not old
        assert torch.equal(own, old)


def test_what_the_memo_has_is_taken() -> None:
    model, other = Plain(), nn.Conv2d(3, 2, 1)
    new: Any = copied(model, {id(model.layer[0]): other})
    assert new.layer[0] is other
    assert new.same is other
