"""Dynamic ops for layers of users' own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_channels import (
    ChannelMutator,
    ConfigError,
    DynamicMixin,
    MutableChannelContainer,
    PrepareError,
    SequentialMutableChannelUnit,
    SquentialMutableChannel,
    build,
    count_resources,
    dynamic_op,
)
from lightning_channels.dynamic_ops import factory, is_dynamic, make_dynamic, restore, spec
from tests.dynamic_ops.cases import DynamicTransposed, Transposed


class Shift(nn.Module):
    """Keeps no number of its channels."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.amount = nn.Parameter(torch.randn(size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.amount


class Wide(nn.Linear):
    """A layer of torch's with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


@dynamic_op(inputs="channels", outputs="channels", tensors={"amount": ("channels",)}, sizes={})
class DynamicShift(DynamicMixin, Shift):
    pass


@dynamic_op()
class DynamicWide(DynamicMixin, Wide):
    pass


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Transposed(6, 12), Shift(12), nn.GELU(), Wide(12, 8), Transposed(8, 4, bias=False)).double()


INPUTS = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_a_traced_layer_has_sides_and_gives_its_units_their_names() -> None:
    plain, model = net(), net()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, INPUTS)
    assert [type(module) for module in model] == [
        DynamicTransposed,
        DynamicShift,
        nn.GELU,
        DynamicWide,
        DynamicTransposed,
    ]
    assert list(mutator.choice_template.items()) == [("0_(0, 12)_12", 12), ("3_(0, 8)_8", 8)]
    assert [channel.label for channel in mutator.mutable_units[0].channels] == ["0", "1", "1", "3"]
    assert torch.equal(model(INPUTS), plain(INPUTS))
    mutator.set_choices({"0_(0, 12)_12": 5, "3_(0, 8)_8": 3})
    assert repr(model[4]) == (
        "DynamicTransposed(\n"
        "  (mutable_attrs): ModuleDict(\n"
        "    (into): MutableChannelContainer(num_channels=8, activated_channels=3)\n"
        "    (out): MutableChannelContainer(num_channels=4, activated_channels=4)\n"
        "  )\n"
        ")"
    )
    masked = plain
    with torch.no_grad():
        masked[3].weight[:, 5:] = 0
        masked[4].weight[3:] = 0
    assert_close(model(INPUTS), masked(INPUTS), rtol=1e-10, atol=0)
    small = mutator.export()
    assert [type(module) for module in small] == [Transposed, Shift, nn.GELU, Wide, Transposed]
    assert (small[0].into, small[0].out, small[0].weight.shape) == (6, 5, (6, 5))
    assert_close(small(INPUTS), model(INPUTS), rtol=1e-12, atol=0)


def test_its_resources_are_counted() -> None:
    model = net()
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, INPUTS)
    mutator.set_choices({"0_(0, 12)_12": 5, "3_(0, 8)_8": 3})
    small = mutator.export()
    found = count_resources(model)
    assert found["macs"] == 15 * (6 * 5 + 5 * 3 + 3 * 4)
    assert found["params"] == sum(parameter.numel() for parameter in small.parameters())


def test_templates_and_structures_know_it() -> None:
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(net(), INPUTS)
    mutator.set_choices({"0_(0, 12)_12": 5})
    template = mutator.config_template(with_unit_init_args=True, with_channels=True)
    again = build({**template, "parse_cfg": {"type": "Config"}})
    again.prepare_from_supernet(net())
    assert again.current_choices == mutator.current_choices
    third = ChannelMutator.from_structure(mutator.structure())
    third.prepare_from_supernet(net())
    assert third.structure() == mutator.structure()


def test_it_can_be_written_into_a_model() -> None:
    mutable = SquentialMutableChannel(8)
    register = MutableChannelContainer.register_mutable_channel_to_module
    model = nn.Sequential(DynamicTransposed(6, 8), DynamicShift(8), DynamicWide(8, 2))
    register(model[0], mutable)
    register(model[1], mutable)
    register(model[2], mutable, is_to_output_channel=False)
    (unit,) = SequentialMutableChannelUnit.init_from_predefined_model(model)
    assert unit.name == "0_(0, 8)_8"
    unit.current_choice = 3
    assert model[:2](torch.randn(2, 6)).shape == (2, 3)
    assert model(torch.randn(2, 6)).shape == (2, 2)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_it_is_copied_like_any_dynamic_op(way: Any) -> None:
    module = make_dynamic(Transposed(6, 8))
    mutable = SquentialMutableChannel(8)
    MutableChannelContainer.register_mutable_channel_to_module(module, mutable)
    mutable.current_choice = 3
    other = way(module)
    assert type(other) is DynamicTransposed
    assert torch.equal(other(torch.ones(1, 6)), module(torch.ones(1, 6)))
    assert type(restore(other)) is Transposed
    assert set(other.__dict__) == set(Transposed(6, 8).__dict__)
    assert is_dynamic(module)


@pytest.fixture
def table() -> Iterator[None]:
    """Takes what a test registers out again."""
    added, named = list(spec._ADDED), dict(factory._NAMED)
    yield
    spec._ADDED[:] = added
    spec._FOUND.clear()
    factory._NAMED.clear()
    factory._NAMED.update(named)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.size, self.slope = 4, None
        self.weight = nn.Parameter(torch.ones(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"inputs": "size", "tensors": {"weight": ("size",)}}, "its weight has 2 dims, and its dynamic op names 1"),
        (
            {"inputs": "sise", "tensors": {"weight": ("sise", None)}},
            "it has no integer 'sise', which its dynamic op names",
        ),
        (
            {"inputs": "size", "tensors": {"weight": (None, "size")}},
            "its side 'size' has 4 channels, and a tensor of it 3",
        ),
        (
            {"inputs": "size", "tensors": {"weight": ("size", None), "gamma": ("size",)}},
            "it has no parameter or buffer 'gamma', which its dynamic op names",
        ),
        (
            {"inputs": "size", "tensors": {"slope": ("size",)}, "sizes": {}},
            "none of the tensors that this one has shows the size of its side 'size'",
        ),
    ],
)
def test_a_layer_that_is_not_as_said_is_not_narrowed(said: dict[str, Any], reason: str) -> None:
    @dynamic_op(**said)
    class DynamicLayer(DynamicMixin, Layer):
        pass

    with pytest.raises(PrepareError, match=f"DynamicLayer cannot be narrowed: {reason}"):
        DynamicLayer()
    with pytest.raises(PrepareError, match=f"Layer cannot be narrowed: {reason}"):
        make_dynamic(Layer())
    model = nn.Sequential(nn.Linear(2, 4), Layer())
    mutator = ChannelMutator()
    mutator.prepare_from_supernet(model, torch.randn(1, 2))
    assert mutator.mutable_units == []
    assert any(reason in unit.why_not() for unit in mutator.units), mutator.report()
    assert type(model[1]) is Layer


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({}, "dynamic_op for Own needs tensors: Layer is no layer of torch's"),
        ({"tensors": {}}, "dynamic_op needs tensors, and inputs or outputs or both"),
        ({"tensors": {"weight": ("size", None)}}, "dynamic_op needs tensors, and inputs or outputs or both"),
        (
            {"inputs": "size", "tensors": {"weight": ("sise", None)}},
            "dynamic_op has no side 'sise'; did you mean 'size'. Its inputs and outputs are size",
        ),
        (
            {"inputs": "size", "outputs": "out", "tensors": {"weight": ("size", None)}},
            "dynamic_op has the side 'out', but none of its tensors weight has it",
        ),
        (
            {"inputs": "size", "tensors": {"weight": ("size", None)}, "sizes": {"size": "other"}},
            "dynamic_op has no side 'other'",
        ),
    ],
)
def test_what_cannot_be_said(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):

        @dynamic_op(**said)
        class Own(DynamicMixin, Layer):
            pass


@pytest.mark.usefixtures("table")
def test_classes_that_are_no_dynamic_ops() -> None:
    decorate = dynamic_op(inputs="size", tensors={"weight": ("size", None)})
    for bases in ((Layer,), (Layer, DynamicMixin), (DynamicMixin,), (DynamicTransposed,)):
        with pytest.raises(ConfigError, match=r"write class Own\(DynamicMixin, TheLayer\), in this order"):
            decorate(type("Own", bases, {}))
    with pytest.raises(ConfigError, match=r"Transposed has a dynamic op already: .*DynamicTransposed"):
        decorate(type("Own", (DynamicMixin, Transposed), {}))
    with pytest.raises(ConfigError, match=r"Linear has a dynamic op already: .*DynamicLinear"):
        decorate(type("Own", (DynamicMixin, nn.Linear), {}))
    decorate(type("Own", (DynamicMixin, Layer), {}))
    assert type(make_dynamic(Layer())).__name__ == "Own"
