"""Integer attributes that count channels are found, and follow their unit's width."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_channels import ChannelMutator, StructureError, export_subnet


class Ghost(nn.Module):
    """Makes more channels than asked for, and cuts the rest off."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.out_chs = out
        half = out // 2 + 1
        self.primary = nn.Conv2d(channels, half, 1)
        self.cheap = nn.Conv2d(half, half, 3, padding=1, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)[:, : self.out_chs]


class Res2(nn.Module):
    """Splits into equal parts by an attribute."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.enter = nn.Conv2d(channels, 3 * width, 1)
        self.parts = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.leave = nn.Conv2d(3 * width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.split(self.enter(x), self.width, 1)
        first = self.parts[0](first)
        return x + self.leave(torch.cat([first, self.parts[1](first + second), third], 1))


class Uneven(nn.Module):
    """Splits by a list."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = [3, 5]
        self.enter = nn.Conv2d(3, 8, 1)
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).relu().split(self.splits, 1)
        return self.a(a) + self.b(b)


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flat = 6 * 16
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(96, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().reshape(-1, self.flat))


class Made(nn.Module):
    """Makes a tensor of its own of that many channels and writes into it."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 6
        self.conv, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], self.channels, *x.shape[2:])
        for _ in range(2):
            state = torch.tanh(self.conv(x) + state)
        return self.head(state)


class Child(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 4

    def forward(self, x: Tensor, size: int) -> Tensor:
        return x.reshape(*x.shape[:2], size, -1).mean(-1)


class Around(nn.Module):
    """The number is the parent's; the child gets it as an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 6
        self.enter, self.pool, self.head = nn.Linear(5, 12), Child(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.enter(x), self.size))


class Inside(nn.Module):
    """The number is the child's; the parent reads it there."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.child, self.head = nn.Linear(5, 12), Child(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.enter(x).reshape(*x.shape[:2], self.child.heads, 3).mean(-1))


class Unflattened(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(5, 12), nn.Unflatten(-1, (4, 3)), nn.Linear(3, 2), nn.Flatten(-2), nn.Linear(8, 4))
        # each of the four rows goes through the same weights, so that the three columns may go, and no row


IMAGE = (2, 3, 4, 4)
CASES: dict[str, tuple[Any, tuple[int, ...], dict[str, set[str]]]] = {
    "slice": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), Ghost(6, 8), nn.Conv2d(8, 4, 1)),
        IMAGE,
        {"0_(0, 6)_6": set(), "1.primary_(0, 5)_5": {"1.out_chs"}},
    ),
    "split": (
        lambda: nn.Sequential(nn.Conv2d(3, 5, 1), Res2(5, 6), nn.Conv2d(5, 4, 1)),
        IMAGE,
        {"0_(0, 5)_5": set(), "1.enter_(0, 6)_6": {"1.width"}},
    ),
    "list": (Uneven, IMAGE, {"enter_(0, 3)_3": {"splits[0]"}, "enter_(3, 8)_5": {"splits[1]"}}),
    "flatten": (Flat, IMAGE, {"conv_(0, 6)_6": {"flat"}}),
    "new tensor": (Made, IMAGE, {"conv_(0, 6)_6": {"channels"}}),
    "around": (Around, (2, 3, 5), {"enter_(0, 12)_6": {"size"}}),
    "inside": (Inside, (2, 3, 5), {"enter_(0, 12)_4": {"child.heads"}}),
    "unflatten": (Unflattened, (2, 3, 5), {"0_(0, 3)_3": {"1.unflattened_size[1]"}}),
}


@pytest.mark.parametrize("case", CASES)
def test_attributes_follow(case: str) -> None:
    build, shape, expected = CASES[case]
    torch.manual_seed(0)
    model, inputs = build().double().eval(), torch.randn(shape, dtype=torch.float64)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    found = {unit.name: {channel.label for channel in unit.attributes} for unit in mutator.mutable_units}
    for name, labels in expected.items():
        assert found.get(name) == labels, (found, [u.why_not() for u in mutator.units])
    full = model(inputs)
    mutator.set_choices(mutator.sample_choices(rng=random.Random(3)))
    mutator.set_choices({name: max(1, mutator.name2unit[name].num_channels // 2) for name in expected})
    small = export_subnet(model)
    assert full.shape == small(inputs).shape
    torch.testing.assert_close(small(inputs), model(inputs))
    names = {label.partition("[")[0].rpartition(".")[::2] for label in set().union(*expected.values())}
    narrow = {(module, key): getattr(model.get_submodule(module), key) for module, key in names}
    assert all(getattr(small.get_submodule(module), key) == held for (module, key), held in narrow.items())
    mutator.set_choices(mutator.sample_choices("max"))
    assert all(getattr(model.get_submodule(module), key) != held for (module, key), held in narrow.items())
    torch.testing.assert_close(model(inputs), full, rtol=0, atol=0)


def test_they_are_in_the_structure() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Flat(), torch.randn(IMAGE))
    mutator.set_choices({"conv_(0, 6)_6": 2})
    data = json.loads(json.dumps(mutator.structure()))
    entry = data["template"]["channel_unit_cfg"]["units"]["conv_(0, 6)_6"]["channels"]["attributes"]
    assert entry == [
        {"name": "", "start": 0, "end": 96, "expand_ratio": 16, "is_output_channel": False, "attribute": "flat"}
    ]
    fresh = Flat()
    ChannelMutator.from_structure(data).prepare_from_supernet(fresh)
    assert fresh.flat == 32
    assert fresh(torch.randn(IMAGE)).shape == (2, 4)

    other = Flat()
    other.flat = 48
    with pytest.raises(StructureError, match="flat"):
        ChannelMutator.from_structure(data).prepare_from_supernet(other)
    assert type(other) is Flat


def test_only_integers_that_could_count_channels_are_taken_from_a_file() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(Flat(), torch.randn(IMAGE))
    data = mutator.structure()
    units = data["template"]["channel_unit_cfg"]["units"]
    units["conv_(0, 6)_6"]["channels"]["attributes"][0]["attribute"] = "training"
    fresh = Flat()
    with pytest.raises(StructureError, match="'training'"):
        ChannelMutator.from_structure(data).prepare_from_supernet(fresh)
    assert type(fresh) is Flat


class TwoRoles(nn.Module):
    """One number for two sets of channels: it can follow neither."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 6
        self.a, self.b, self.head = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).reshape(-1, self.size, 2).mean(-1)
        b = self.b(x).reshape(-1, self.size, 2).amax(-1)
        return self.head(torch.cat([a, b], -1))


class ByChance(nn.Module):
    """The window's size is the number of heads by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = self.window = 4
        self.enter, self.head = nn.Linear(5, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).reshape(-1, self.heads, 3)
        return self.head(x.flatten(1)).reshape(-1, self.window, 4).mean(1)


def test_what_one_number_counts_can_only_shrink_together() -> None:
    torch.manual_seed(0)
    model, inputs = TwoRoles().double().eval(), torch.randn(3, 5, dtype=torch.float64)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    (unit,) = mutator.mutable_units
    assert (unit.num_channels, [channel.name for channel in unit.attributes]) == (6, [""])
    mutator.set_choices({unit.name: 4})
    assert (model.size, model.a.weight.shape[0], model.b.weight.shape[0]) == (4, 8, 8)


def test_a_number_that_is_the_same_by_chance() -> None:
    torch.manual_seed(0)
    model, inputs = ByChance().double().eval(), torch.randn(8, 5, dtype=torch.float64)
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, inputs)
    (unit,) = mutator.mutable_units
    assert [channel.label for channel in unit.attributes] == ["heads"]  # the line of the view mentions this one
    mutator.set_choices({unit.name: 2})
    assert (model.heads, model.window) == (2, 4)
    torch.testing.assert_close(mutator.export()(inputs), model(inputs))
