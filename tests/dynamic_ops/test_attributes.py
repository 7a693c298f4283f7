"""Integer attributes that follow channels."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from lightning_channels.dynamic_ops import containers, make_dynamic, make_static, restore
from lightning_channels.dynamic_ops.attributes import attribute_sizes, key_of, split_key
from lightning_channels.errors import PrepareError
from lightning_channels.mutables import SquentialMutableChannel


class Heads(nn.Module):
    """Keeps integers of every kind, and no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.splits = [8, 8, 16]
        self.window = (7, 7)
        self.fused = True
        self.one = 1
        self.scale = 0.5
        self._private = 9

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))


class Padded(nn.Conv2d):
    """A convolution with a number of its own."""

    def __init__(self) -> None:
        super().__init__(4, 8, 3)
        self.reduced = 8


def test_which_integers_can_follow() -> None:
    sizes = {"num_heads": 4, "splits[0]": 8, "splits[1]": 8, "splits[2]": 16, "window[0]": 7, "window[1]": 7}
    assert attribute_sizes(Heads()) == sizes
    assert attribute_sizes(Padded()) == {"reduced": 8}  # the rest is in the table, or about the kernel
    assert attribute_sizes(nn.Unflatten(1, (4, 2))) == {"unflattened_size[0]": 4, "unflattened_size[1]": 2}
    assert attribute_sizes(nn.MaxPool2d(3, 2)) == {}


@pytest.mark.parametrize(("name", "entry"), [("num_heads", None), ("splits", 2)])
def test_keys(name: str, entry: int | None) -> None:
    assert split_key(key_of(name, entry)) == (name, entry)


def narrowed(module: Heads) -> tuple[SquentialMutableChannel, SquentialMutableChannel]:
    make_dynamic(module, attributes=["num_heads", "splits[1]"])
    heads, split = SquentialMutableChannel(4), SquentialMutableChannel(8)
    containers(module)["num_heads"].register_mutable(heads)
    containers(module)["splits[1]"].register_mutable(split)
    heads.current_choice, split.current_choice = 2, 3
    return heads, split


def test_they_follow() -> None:
    module = Heads()
    splits = module.splits
    heads, split = narrowed(module)
    assert (module.num_heads, module.splits, module.window) == (2, [8, 3, 16], (7, 7))
    assert module(torch.zeros(1, 6)).shape == (1, 2, 3)
    heads.current_choice, split.current_choice = 4, 8
    assert module.num_heads == 4
    assert module.splits is splits  # at full width, the object itself
    heads.current_choice = 1
    restore(module)
    assert type(module) is Heads
    assert (module.num_heads, module.splits) == (4, [8, 8, 16])


def test_more_can_be_added() -> None:
    module = Heads()
    narrowed(module)
    make_dynamic(module, attributes=["window[0]"])
    assert (module.num_heads, module.splits) == (2, [8, 3, 16])
    assert list(containers(module)) == ["num_heads", "splits[1]", "window[0]"]


def test_copies_and_pickles() -> None:
    module = Heads()
    narrowed(module)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert (twin.num_heads, twin.splits) == (2, [8, 3, 16])
        assert type(twin) is type(module)


def test_the_static_module_has_the_numbers() -> None:
    module = Heads()
    narrowed(module)
    make_static(module)
    assert type(module) is Heads
    assert (module.__dict__["num_heads"], module.__dict__["splits"]) == (2, [8, 3, 16])


def test_a_subclass_of_a_known_module() -> None:
    module = make_dynamic(Padded(), attributes=["reduced"])
    mutable = SquentialMutableChannel(8)
    containers(module)["out_channels"].register_mutable(mutable)
    containers(module)["reduced"].register_mutable(mutable)
    mutable.current_choice = 5
    assert (module.out_channels, module.reduced) == (5, 5)
    assert module(torch.zeros(1, 4, 5, 5)).shape == (1, 5, 3, 3)


def test_a_write_is_refused() -> None:
    module = Heads()
    narrowed(module)
    with pytest.raises(PrepareError, match=r"DynamicHeads\.num_heads follows the active channels"):
        module.num_heads = 8
    assert module.num_heads == 2


@pytest.mark.parametrize("key", ["num_head", "scale", "splits[3]", "splits", "fused"])
def test_what_is_no_size_is_refused(key: str) -> None:
    module = Heads()
    with pytest.raises(PrepareError, match="no integer attribute"):
        make_dynamic(module, attributes=[key])
    assert type(module) is Heads


def test_no_getter_leaks_an_attribute_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Heads()
    narrowed(module)

    def broken(*_: object) -> int:
        raise AttributeError("inside")

    monkeypatch.setattr("lightning_channels.dynamic_ops.properties.with_sizes", broken)
    with pytest.raises(RuntimeError, match=r"DynamicHeads\.num_heads could not be narrowed: inside"):
        _ = module.num_heads
